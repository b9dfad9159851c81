"""Quantize/dequantize pairs compute what quantizers do; clamps go only where the pair clamps as tightly."""

import pytest
import torch
from mixed import noise_db
from networks import ADDS_INSIDE, images, options, residual
from torch import Tensor, nn

from zeropoint.engines.qdq import to_pairs
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE, aten
from zeropoint.graph.program import flat_tensors
from zeropoint.quantization import quantize


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_pairs_compute_what_the_quantizers_do(bits: int, granularity: str, method: str):
    chosen = options(weight_bits=bits, activation_bits=bits, weight_granularity=granularity)
    program = quantize(residual(), method, calibration=[images()], target=ADDS_INSIDE, options=chosen)
    lowered = to_pairs(program)
    assert not {node.target for node in lowered.graph.nodes} & FAKE_QUANTIZE
    beyond = images(seed=3) * 2  # of what calibration has seen
    assert noise_db(program(beyond), flat_tensors(lowered(beyond))) > 100


class Clamped(nn.Module):
    """A convolution, a clamp, and a convolution whose input is quantized."""

    def __init__(self, clamp: nn.Module) -> None:
        super().__init__()
        self.first, self.clamp, self.last = nn.Conv2d(3, 4, 1), clamp, nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.clamp(self.first(x)))


@pytest.mark.parametrize(
    ("clamp", "scale", "dropped"),
    [
        (nn.ReLU(), 1.0, True),
        (nn.ReLU6(), 1.0, True),  # the values end below 6, and so does the quantizer
        (nn.ReLU6(), 50.0, True),  # both end at 6
        (nn.Hardtanh(-0.1, 9.0), 1.0, True),
        (nn.LeakyReLU(0.1), 1.0, False),
    ],
)
def test_clamps_that_a_quantizer_implies_are_dropped(clamp: nn.Module, scale: float, dropped: bool):
    torch.manual_seed(0)
    program = capture(Clamped(clamp), images())
    quantized = quantize(program, calibration=[images() * scale], options=options())
    lowered = to_pairs(quantized)
    left = {node.target for node in lowered.graph.nodes}
    assert (len(left & {aten.relu.default, aten.hardtanh.default, aten.leaky_relu.default}) == 0) is dropped
    beyond = images(seed=3) * scale * 3
    assert noise_db(quantized(beyond), flat_tensors(lowered(beyond))) > 100


def test_a_clamp_tighter_than_its_quantizer_stays():
    torch.manual_seed(0)
    model = Clamped(nn.ReLU6())
    quantized = quantize(capture(model, images()), calibration=[images() * 50], options=options())
    for node in quantized.module.graph.nodes:
        if node.target is aten.hardtanh.default:
            node.update_arg(2, 3.0)
    quantized.module.recompile()
    lowered = to_pairs(quantized)
    assert aten.hardtanh.default in {node.target for node in lowered.graph.nodes}
    assert noise_db(quantized(images() * 50), flat_tensors(lowered(images() * 50))) > 100
