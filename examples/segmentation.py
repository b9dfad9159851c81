"""Segmentation of drawn shapes: the table and the verdict speak of mIoU. For the command line:

    zeropoint compare segmentation.py:make_model --data segmentation.py:make_loaders \
        --task segmentation --max-drop 0.5 --methods fp32,static --engines openvino,onnxruntime
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeropoint as zp


def batches(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
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
    images += 0.4 * torch.randn(images.shape, generator=generator)
    return list(zip(images.split(16), classes.split(16), strict=True))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Upsample(scale_factor=2.0), nn.Conv2d(32, 3, 3, padding=1)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for images, classes in 5 * batches(256, seed=0):
        optimizer.zero_grad()
        F.cross_entropy(model(images), classes).backward()
        optimizer.step()
    return model.eval()


def make_loaders() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return {"calibration": batches(64, seed=1), "evaluation": batches(64, seed=2)}


if __name__ == "__main__":
    data = zp.Loaders("drawn shapes", **make_loaders())
    program = zp.capture(make_model(), data.evaluation[0][0])
    what = {"methods": ["fp32", "static"], "engines": ["openvino", "onnxruntime"], "task": "segmentation"}
    for row in zp.compare(program, data, out="runs/segmentation", max_drop=0.5, **what).rows:
        low, high = 100 * row.change.low, 100 * row.change.high
        print(f"{row.name}: mIoU {row.values['mIoU']:.2%}, change {low:+.2f} to {high:+.2f} points")
