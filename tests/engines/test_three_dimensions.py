"""Layers over three axes of space: what engines run in int8, and that they compute the Program."""

import pytest
import torch
from networks import sqnr
from torch import nn

import zeropoint as zp
from zeropoint.graph import operators
from zeropoint.graph.operators import aten
from zeropoint.graph.quantizers import quantizers

NETWORKS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 4, 3, stride=2), nn.BatchNorm3d(4)
    ),
    "transposed": lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.ConvTranspose3d(8, 4, 2, 2)),
}
QUANTIZED = {
    ("convolutions", "torch"): 0,  # the PyTorch compiler has no int8 kernel for them
    ("convolutions", "onnxruntime"): 2,
    ("convolutions", "openvino"): 2,
    ("transposed", "torch"): 0,
    ("transposed", "onnxruntime"): 1,
    ("transposed", "openvino"): 2,
}


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 5, 7, 9, generator=generator) for _ in range(4)]


def quantized(name, engine):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    return model, zp.quantize(zp.capture(model, batches()[0]), calibration=batches(), target=engine)


@pytest.mark.parametrize(("name", "engine"), QUANTIZED)
def test_what_is_quantized(name, engine):
    _, program = quantized(name, engine)
    assert sum(one.is_weight for one in quantizers(program.module)) == QUANTIZED[name, engine]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engine"), [pair for pair in QUANTIZED if pair[1] != "torch"])
def test_engines_compute_the_program(name, engine):
    (model, program), x = quantized(name, engine), batches()[0]
    found = zp.compile(program, engine, threads=1, batch_size=2)(x)
    with torch.no_grad():
        assert sqnr(model(x), found) > 30
    assert sqnr(program(x), found) > 45


def test_an_operator_is_one_row(monkeypatch):
    torch.manual_seed(0)
    model = zp.capture(NETWORKS["transposed"]().eval(), batches()[0])
    row = operators.WEIGHTED[aten.conv_transpose3d.input]
    monkeypatch.delitem(operators.WEIGHTED, aten.conv_transpose3d.input)
    without = zp.quantize(model, calibration=batches(), target="openvino")
    assert sum(one.is_weight for one in quantizers(without.module)) == 1
    monkeypatch.setitem(operators.WEIGHTED, aten.conv_transpose3d.input, row)
    with_it = zp.quantize(model, calibration=batches(), target="openvino")
    assert sum(one.is_weight for one in quantizers(with_it.module)) == 2
