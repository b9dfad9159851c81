"""Values that a model fills in count for no range where maxima and softmax ignore them; elsewhere they do."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import randomized
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.errors import InputError
from zeropoint.graph.sentinels import absorbed, sentinels
from zeropoint.numerics.sqnr import sqnr_db

GENERATOR = torch.Generator().manual_seed(0)


class Filled(nn.Module):
    """A layer, ``fill``, which takes its output and a mask, ``then``, and another layer."""

    def __init__(self, fill, then) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(8, 16, 3, padding=1), nn.Conv1d(16, 4, 1)
        self.fill, self.then = fill, then

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.last(self.then(self.fill(self.first(x), mask)))


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 8, 24, generator=GENERATOR), torch.rand(8, 1, 24, generator=GENERATOR) < 0.3


FILLS = {
    "masked_fill": lambda x, m: x.masked_fill(m, -1e3),
    "masked_fill -inf": lambda x, m: x.masked_fill(m, -math.inf),
    "where": lambda x, m: torch.where(m, -1e9, x),
    "where of a tensor": lambda x, m: torch.where(m, torch.full_like(x, -1e4), x),
    "pad": lambda x, m: F.pad(x, (1, 1), value=-1e3),
    "cat": lambda x, m: torch.cat([x, torch.full_like(x[..., :1], -1e3)], -1),
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_what_a_maximum_ignores_has_no_range(fill: str, target: str):
    model = randomized(Filled(FILLS[fill], lambda x: x.amax(-1, keepdim=True)))
    program = zp.capture(model, inputs())
    options = zp.Options(processor="vnni")  # there OpenVINO's quantizer is before the maximum
    quantized = zp.quantize(program, calibration=[inputs() for _ in range(4)], target=target, options=options)
    held_out = inputs()
    assert sqnr_db(program(*held_out), quantized(*held_out)) > 30


def reader_of(program: zp.Program, name: str):
    return next(node for node in program.module.graph.nodes if name in str(node.target))


@pytest.mark.parametrize(
    ("fill", "then", "expected"),
    [
        (lambda x, m: x.masked_fill(m, -5.0), lambda x: x.amax(-1, keepdim=True), (-5.0,)),
        (lambda x, m: x.masked_fill(m, -5.0), lambda x: x.transpose(1, 2).softmax(-1).mT, (-5.0,)),
        (lambda x, m: x.masked_fill(m, 5.0), lambda x: x.amin(-1, keepdim=True), (5.0,)),
        (lambda x, m: x.masked_fill(m, 5.0), lambda x: x.amax(-1, keepdim=True), ()),
        (lambda x, m: x.masked_fill(m, -5.0), lambda x: x, ()),
        (lambda x, m: x.masked_fill(m, -5.0), lambda x: x.amax(-1, keepdim=True) + x, ()),
        (lambda x, m: x.masked_fill(m, -5.0), lambda x: x.amax(-1, keepdim=True) + x.amin(-1, True), ()),
    ],
)
def test_sentinels_are_what_every_reader_ignores(fill, then, expected):
    program = zp.capture(Filled(fill, then), inputs())
    assert sentinels(program.module, reader_of(program, "masked_fill")) == expected


class Added(nn.Module):
    """Attention with a mask that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.head = nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.parts(x).chunk(3, -1)
        return self.head((query @ key.mT + mask[:, None]).softmax(-1) @ value)


def masked() -> tuple[Tensor, Tensor]:
    mask = torch.zeros(8, 12).masked_fill(torch.arange(12) > torch.arange(3, 11)[:, None], -math.inf)
    return torch.randn(8, 12, 16, generator=GENERATOR), mask


def test_infinite_masks_that_are_added_are_data():
    program = zp.capture(randomized(Added()), masked())
    assert [absorbed(node) for node in program.module.graph.find_nodes(op="placeholder")] == [0, -1]
    quantized = zp.quantize(program, calibration=[masked() for _ in range(4)], target="onnxruntime")
    held_out = masked()
    assert sqnr_db(program(*held_out), quantized(*held_out)) > 30
    x, mask = masked()
    for wrong in ((x, -mask), (x, mask * 0), (x / 0, mask)):  # inf, NaN, and inf in the other input
        with pytest.raises(InputError, match="holds NaN or Inf; clean the data"):
            zp.quantize(program, calibration=[wrong], target="onnxruntime")
