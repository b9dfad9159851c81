"""Ranges of groups at run time: the arithmetic in NumPy, and OpenVINO's own on a processor that has it."""

import dataclasses

import numpy as np
import pytest
import torch
from networks import ADDS_INSIDE, dynamic, options
from torch import nn

import zeropoint as zp
from zeropoint.diagnosis.diagnose import diagnose
from zeropoint.graph.capture import capture
from zeropoint.numerics.sqnr import sqnr_db
from zeropoint.targets.processor import native

GROUPS = dataclasses.replace(ADDS_INSIDE, run_time_group=4)
HAS_GROUPS = native().name in ("vnni", "amx")


def linear(inputs, outputs=3):
    """A layer whose weights lie on the grid, so that inputs alone are rounded."""
    torch.manual_seed(inputs)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data = torch.randint(-127, 128, (outputs, inputs)) / 127
    layer.weight.data[:, 0] = 1.0
    return layer


def rounded(x, size):
    """Each group of neighbours divided by its largest magnitude over 127 and rounded, half to even."""
    result = np.zeros_like(x)
    for row in range(len(x)):
        for first in range(0, x.shape[1], size):
            group = x[row, first : first + size]
            scale = np.float32(np.abs(group).max() / np.float32(127))
            steps = np.round(group / scale) if scale else group
            result[row, first : first + size] = steps * scale
    return result


@pytest.mark.parametrize("inputs", [4, 8, 10])
def test_groups_are_rounded_each_by_its_own_scale(inputs):
    layer = linear(inputs)
    x = torch.randn(5, inputs, generator=torch.Generator().manual_seed(1))
    x[2] *= 1000
    x[3, :4] = 0
    program = dynamic(capture(layer, x[:2]), GROUPS, options())
    expected = rounded(x.numpy(), 4) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    assert sqnr_db(torch.from_numpy(expected), program(x)) > 110


def test_fewer_inputs_than_a_group_stay_float():
    layer = linear(3)
    x = torch.randn(5, 3)
    program = dynamic(capture(layer, x[:2]), GROUPS, options())
    torch.testing.assert_close(program(x), layer(x), rtol=1e-5, atol=1e-5)


def test_it_is_saved_inspected_and_diagnosed(tmp_path):
    network = nn.Sequential(linear(8, 8), nn.ReLU(), linear(8)).eval()
    x = torch.randn(4, 2, 8)
    program = dynamic(capture(network, x[:2]), GROUPS, options())
    program.save(tmp_path / "p.pt2")
    assert torch.equal(zp.load(tmp_path / "p.pt2")(x), program(x))
    first, second = (layer for layer in zp.inspect(program).layers if layer.weights)
    for layer, source in ((first, "the model's input"), (second, "1")):
        assert (layer.state, layer.inputs[0].source) == ("integer", source)
        assert (layer.inputs[0].grid.granularity, layer.inputs[0].grid.bits) == ("per-group, at run time", 8)
    found = diagnose(program, [x])
    assert {layer.name for layer in found.layers} == {"0", "2"}
    floats = [one for one in found.advice if one.fix.what == "leave it float"]
    assert all(one.gain_db > 0 for one in floats)


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("torch", marks=pytest.mark.slow)])
def test_engines_without_groups_compute_them(engine):
    x = torch.randn(4, 10)
    program = dynamic(capture(linear(10), x[:2]), GROUPS, options())
    found = zp.compile(program, engine, threads=1, batch_size=4)(x)
    assert sqnr_db(program(x), found) > 100


@pytest.mark.skipif(not HAS_GROUPS, reason="OpenVINO has ranges of groups at run time with VNNI alone")
@pytest.mark.parametrize("shape", [(1, 64), (7, 40), (16, 20), (4, 5, 100), (33, 512)])
def test_openvino_computes_the_same(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    program = zp.quantize(capture(linear(shape[-1], 16), x), "dynamic", target="openvino")
    found = zp.compile(program, "openvino", threads=1, batch_size=shape[0])(x)
    assert sqnr_db(program(x), found) > 110
