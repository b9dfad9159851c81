"""Weight-only quantization: float activations, and the same on every engine."""

import pytest
import torch
from networks import ADDS_INSIDE, images, options, residual, sqnr

from zeropoint.engines import compile
from zeropoint.graph.quantizers import quantizers
from zeropoint.methods import find
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options

DATA = [images(16, seed) for seed in range(4)]


def weight_only(**chosen: object):
    program = residual()
    return program, quantize(
        program, "weight-only", calibration=DATA, target=ADDS_INSIDE, options=options(**chosen)
    )


def test_weights_are_those_of_static_and_nothing_else_is_quantized():
    program, quantized = weight_only(weight_bits=4)
    static = quantize(program, calibration=DATA, target=ADDS_INSIDE, options=options(weight_bits=4))
    ours = {str(q.source.target): q.integers(quantized.module) for q in quantizers(quantized.module)}
    theirs = {
        str(q.source.target): q.integers(static.module) for q in quantizers(static.module) if q.is_weight
    }
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (quantized.method, quantized.weight_bits, quantized.activation_bits) == ("weight-only", 4, 32)
    assert find("weight-only").bits(Options().at("W4A8")) == "W4A32"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "bits"),
    [
        ("openvino", 8),
        ("openvino", 4),
        ("onnxruntime", 8),
        ("onnxruntime", 4),
        ("torch", 4),
    ],
)
def test_engines_compute_in_float(engine: str, bits: int):
    _, quantized = weight_only(weight_bits=bits, rounding="gptq")
    x = images(1, 9)
    assert sqnr(quantized(x), compile(quantized, engine, threads=1)(x)) > 100
