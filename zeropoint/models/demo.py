"""The demo networks: two small classifiers of handwritten digits, one plain, one hard to quantize.

Both take images (N, 1, 32, 32) and return logits (N, 10). Their checkpoints were trained by SGD at a learning
rate of 0.1, the defaults of the command line::

    zeropoint train digits/resnet --data digits --epochs 40 --batch-size 64 --out resnet.safetensors
    zeropoint train digits/mobilenet --data digits --epochs 40 --batch-size 64 --out mobilenet.safetensors
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn


def checkpoint(name: str) -> Path:
    """Where the trained weights of the demo network ``name`` lie."""
    return Path(__file__).parent / "checkpoints" / f"{name}.safetensors"


def resnet() -> nn.Sequential:
    """A plain residual network, one block per width (He et al. 2016, section 4.2)."""
    return nn.Sequential(
        *_convolution(1, 16),
        _Residual(16, 16, stride=1),
        _Residual(16, 32, stride=2),
        _Residual(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def mobilenet() -> nn.Sequential:
    """A depthwise-separable network of inverted residuals (Sandler et al. 2018, MobileNetV2).

    Thin, and of the sort that quantizes badly: each depthwise filter is nine weights, and once its batch norm
    is folded in, the filters of one layer differ in range, which a single scale cannot hold (Nagel et al.
    2019, section 3.1). Eight bits it bears; with 4-bit weights it needs a scale per channel.
    """
    return nn.Sequential(
        *_convolution(1, 8, stride=2, activation=nn.ReLU6),
        _InvertedResidual(8, 8, stride=1),
        _InvertedResidual(8, 12, stride=2),
        _InvertedResidual(12, 12, stride=1),
        _InvertedResidual(12, 16, stride=2),
        _InvertedResidual(16, 16, stride=1),
        *_convolution(16, 64, kernel=1, activation=nn.ReLU6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "mobilenet": mobilenet}


class _Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution if the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        same = channels == out and stride == 1
        self.body = nn.Sequential(
            *_convolution(channels, out, stride=stride), *_convolution(out, out, activation=None)
        )
        self.shortcut = nn.Sequential(
            *([] if same else _convolution(channels, out, kernel=1, stride=stride, activation=None))
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y


class _InvertedResidual(nn.Module):
    """Expand fourfold, filter each channel, project; add the input if the shape stays the same."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.body = nn.Sequential(
            *_convolution(channels, wide, kernel=1, activation=nn.ReLU6),
            *_convolution(wide, wide, stride=stride, groups=wide, activation=nn.ReLU6),
            *_convolution(wide, out, kernel=1, activation=None),
        )
        self.kept = channels == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.kept else y


def _convolution(
    channels: int,
    out: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> list[nn.Module]:
    layers = [
        nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return layers if activation is None else [*layers, activation()]
