"""Maxima and minima over axes between quantized layers: engines compute what the Program does."""

import pytest
import torch
import torch.nn.functional as F
from networks import sqnr
from torch import nn

import zeropoint as zp
from zeropoint import engines

REDUCTIONS = {
    "amax": lambda y: y.amax((2, 3)),
    "amin": lambda y: y.amin((2, 3)),
    "max": lambda y: y.flatten(2).max(2).values,
    "min": lambda y: y.flatten(2).min(2)[0],
    "adaptive": lambda y: F.adaptive_max_pool2d(y, 1).flatten(1),
    "adaptive1d": lambda y: F.adaptive_max_pool1d(y.flatten(2), 1).flatten(1),
}


class Reduced(nn.Module):
    """Convolutions, a reduction over space, maybe joined to the mean, a layer; (N, 3, 9, 9) to (N, 5)."""

    def __init__(self, reduce, joined: bool, last: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.reduce, self.joined, self.last = reduce, joined, last

    def forward(self, x):
        """The outputs."""
        y = self.second(F.relu(self.first(x)))
        z = torch.cat([y.mean((2, 3)), self.reduce(y)], 1) if self.joined else self.reduce(y)
        return self.last(z)


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 9, 9, generator=generator) for _ in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "joined"), [*((name, True) for name in REDUCTIONS), ("amax", False), ("adaptive", False)]
)
def test_openvino_computes_what_the_program_does(name, joined):
    torch.manual_seed(0)
    model = Reduced(REDUCTIONS[name], joined, nn.Linear(16 if joined else 8, 5)).eval()
    program = zp.capture(model, batches()[0])
    options = zp.Options(rounding="nearest")
    program = zp.quantize(program, calibration=batches(), target="openvino", options=options)
    x = batches()[0]
    found = zp.compile(program, "openvino", threads=1, batch_size=4)(x)
    with torch.no_grad():
        assert sqnr(model(x), found) > 30
    assert sqnr(program(x), found) > 45


@pytest.mark.parametrize("name", ["amax", "adaptive"])
def test_the_input_of_a_maximum_before_an_integer_layer_is_quantized(name):
    torch.manual_seed(0)
    model = zp.capture(Reduced(REDUCTIONS[name], False, nn.Linear(8, 5)).eval(), batches()[0])
    options = zp.Options(processor="vnni")  # without VNNI OpenVINO's linear layers read floats
    program = zp.quantize(model, calibration=batches(), target="openvino", options=options)
    applied = {decision.rule for decision in program.decisions if decision.reason is None}
    assert "maximum or minimum over axes" in applied


def test_only_openvino_needs_that_rule():
    assert [name for name in engines.NAMES if engines.target(name).quantizes_extremes] == ["openvino"]
