"""Limits of values: clamps of what was quantized, and limits of two types."""

from collections.abc import Callable

import pytest
import torch
from networks import sqnr
from torch import Tensor, nn
from torch.nn import functional as F

import zeropoint as zp

LIMITED: dict[str, Callable[[Tensor], Tensor]] = {
    "concatenation": lambda x: torch.cat([x, x.flip(1)], 1)[:, 8:24].clamp(-0.3, 2),
    "hardtanh of a concatenation": lambda x: F.hardtanh(torch.cat([x, x.flip(1)], 1)[:, :16], -0.31, 0.47),
    "maximum": lambda x: F.max_pool2d(x, 2).clamp(-0.1, 0.33),
    "larger image": lambda x: F.interpolate(x, scale_factor=2).clamp(-0.32, 0.71),
    "lower limit": lambda x: torch.cat([x, x.flip(1)], 1)[:, 8:24].clamp(min=-0.3),
}


class Limited(nn.Module):
    """A convolution, limits, and a convolution; (N, 3, 8, 8) to (N, 8, H, W)."""

    def __init__(self, limit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.limit = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3), limit
        nn.init.normal_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.limit(self.first(x)))


@pytest.mark.parametrize("name", LIMITED)
def test_limits_of_quantized_values_are_not_rounded_on_openvino(name: str):
    """Its low-precision pass limits the integers: 24 dB to the simulation."""
    torch.manual_seed(0)
    model = Limited(LIMITED[name]).eval()
    data = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    program = zp.quantize(zp.capture(model, data[0]), "static", calibration=data[:4], target="openvino")
    runner = zp.compile(program, "openvino", threads=1, verify=False)
    assert sqnr(program(data[4]), torch.as_tensor(runner(data[4]))) > 100


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_limits_may_be_an_integer_and_a_float(engine: str):
    """ONNX's exporter takes no two types."""

    class Between(nn.Module):
        def forward(self, x: Tensor, n: Tensor) -> list[Tensor]:
            return [x.clamp(0, 0.5), x.clamp(-0.25, 1), x.clip(min=0), x.clamp_max(1), n.clamp(1, 3)]

    x, n = torch.linspace(-2, 2, 12).reshape(4, 3), torch.arange(12).reshape(4, 3)
    runner = zp.compile(zp.capture(Between(), (x, n)), engine, threads=1)
    for output, expected in zip(runner(x, n), Between()(x, n), strict=True):
        assert torch.equal(torch.as_tensor(output), expected)
