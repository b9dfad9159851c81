"""Super-resolution of photographs by two, judged by PSNR. For the command line:

    zeropoint compare super_resolution.py:make_model --data super_resolution.py:make_loaders \
        --task image-regression --methods fp32,static --engines openvino,onnxruntime
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import zeropoint as zp

SIDE = 96  # pixels of a piece of a photograph


class Upscaler(nn.Module):
    """An enlarged image, with details from convolutions of the small one and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.details = nn.Sequential(
            *(nn.Conv2d(3, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 16, 3, padding=1), nn.Tanh()),
            *(nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images of twice the height and width."""
        return F.interpolate(images, scale_factor=2.0, mode="bilinear") + self.details(images)


def batches(first: int) -> list[tuple[Tensor, Tensor]]:
    """Every second piece of two photographs at half the resolution, and as it is; values 0 to 1."""
    photographs = [torch.tensor(load_sample_image(name)) / 255 for name in ("china.jpg", "flower.jpg")]
    whole = torch.stack(photographs).movedim(-1, 1)
    pieces = whole.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).flatten(2, 3).transpose(1, 2).flatten(0, 1)
    return [(F.avg_pool2d(part, 2), part) for part in pieces[first::2].split(4)]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model, pairs = Upscaler(), batches(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for small, large in 50 * pairs:
        optimizer.zero_grad()
        F.mse_loss(model(small), large).backward()
        optimizer.step()
    return model.eval()


def make_loaders() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return {"calibration": batches(0), "evaluation": batches(1)}


if __name__ == "__main__":
    data = zp.Loaders("photographs", **make_loaders())
    program = zp.capture(make_model(), data.evaluation[0][0])
    what = {"methods": ["fp32", "static"], "engines": ["openvino", "onnxruntime"], "task": "image-regression"}
    for row in zp.compare(program, data, out="runs/photographs", max_drop=0.2, **what).rows:
        print(f"{row.name}: PSNR {row.values['PSNR']:.2f} dB")
