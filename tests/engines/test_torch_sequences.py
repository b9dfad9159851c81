"""Convolutions over one axis run as integer kernels of the PyTorch compiler."""

import pytest
import torch
from networks import sqnr
from torch import Tensor, nn
from torch.nn import functional

from zeropoint.engines import compile
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.torch.sequences import as_images
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.graph.program import at_batch, flat_tensors
from zeropoint.measure.integers import Integers, integers
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options


class Sequences(nn.Module):
    """Strides, dilation, groups, both kinds of padding; sums with what was convolved or not; halves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 16, 5, stride=2, padding=2)
        self.dilated = nn.Conv1d(16, 16, 3, padding="same", dilation=2)
        self.causal = nn.Conv1d(16, 16, 3)
        self.depthwise = nn.Conv1d(16, 16, 3, padding=1, groups=16, bias=False)
        self.mixing = nn.Conv1d(16, 16, 1)
        self.gate = nn.Conv1d(16, 16, 1)
        self.narrow, self.wide = nn.Conv1d(16, 8, 1), nn.Conv1d(8, 16, 1)
        self.last = nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.dilated(x))
        y = functional.gelu(self.causal(functional.pad(x, (2, 0))))
        narrow, wide = self.mixing(self.depthwise(y)).chunk(2, 1)
        y = self.wide(self.narrow(y) + narrow) * torch.sigmoid(self.gate(y)) + wide.mean()
        turned = torch.softmax(y, 1)
        return turned + self.last(turned), y.amax(2)


@pytest.fixture(scope="module")
def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 8, 40, generator=generator) for _ in range(4)]


def test_images_of_one_row_compute_the_same(data):
    torch.manual_seed(0)
    program = capture(Sequences().eval(), data[0])
    options = Options(rounding="nearest")
    quantized = quantize(program, calibration=data, target="torch", options=options)
    module = to_pairs(at_batch(quantized, 3))
    wanted = flat_tensors(module(data[0]))
    assert len(module.graph.find_nodes(op="call_function", target=aten.conv1d.default)) == 9
    images = as_images(module)
    images.recompile()
    assert not images.graph.find_nodes(op="call_function", target=aten.conv1d.default)
    # The input, what is padded, a half, and what softmax gives, for a convolution and for a sum.
    assert len(images.graph.find_nodes(op="call_function", target=aten.unsqueeze.default)) == 5
    for one, other in zip(wanted, flat_tensors(images(data[0])), strict=True):
        assert sqnr(one, other) > 60


def test_float_convolutions_stay(data):
    module = to_pairs(capture(Sequences().eval(), data[0]))
    before = [node.target for node in module.graph.nodes]
    assert [node.target for node in as_images(module).graph.nodes] == before


@pytest.mark.slow
def test_all_are_integer_kernels(data):
    torch.manual_seed(0)
    quantized = quantize(capture(Sequences().eval(), data[0]), calibration=data, target="torch")
    runner = compile(quantized, "torch", threads=1, batch_size=3)
    assert integers(quantized, runner) == Integers(1.0, ())
    for batch in data:
        for one, other in zip(flat_tensors(quantized(batch)), flat_tensors(runner(batch)), strict=True):
            assert sqnr(one, other) > 40
