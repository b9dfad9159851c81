"""Segmentation of drawn shapes: the table and the verdict speak of mIoU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeropoint as zp


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images with a square and a disc, and the class of every pixel: 0 for neither."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    classes = torch.zeros(count, 32, 32, dtype=torch.int64)
    centres = torch.randint(6, 26, (count, 4), generator=generator).tolist()
    for image, (x, y, u, v) in zip(classes, centres, strict=True):
        image[(rows - x).abs().maximum((columns - y).abs()) < 6] = 1
        image[(rows - u) ** 2 + (columns - v) ** 2 < 36] = 2
    colours = torch.tensor([[0.1, 0.1, 0.1], [0.8, 0.3, 0.2], [0.2, 0.4, 0.8]])
    images = colours[classes].movedim(-1, 1)
    return images + 0.4 * torch.randn(images.shape, generator=generator), classes


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Upsample(scale_factor=2.0), nn.Conv2d(32, 3, 3, padding=1)),
    )


def main() -> None:
    model, (images, classes) = make_model(), draw(256, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(80):
        part = torch.arange(16) + 16 * (step % 16)
        loss = F.cross_entropy(model(images[part]), classes[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def batches(seed: int) -> list[tuple[Tensor, Tensor]]:
        images, classes = draw(64, seed)
        return list(zip(images.split(16), classes.split(16), strict=True))

    data = zp.Loaders("drawn shapes", calibration=batches(1), evaluation=batches(2))
    program = zp.capture(model.eval(), images[:1])
    what = {"methods": ["fp32", "static"], "engines": ["openvino", "onnxruntime"], "task": "segmentation"}
    results = zp.compare(program, data, out="runs/segmentation", max_drop=0.5, **what)
    for row in results.rows:
        low, high = 100 * row.change.low, 100 * row.change.high
        print(f"{row.name}: mIoU {row.values['mIoU']:.2%}, change {low:+.2f} to {high:+.2f} points")


if __name__ == "__main__":
    main()
