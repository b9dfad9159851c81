"""OpenVINO really computes in integers: seen in the precisions of its runtime model."""

import subprocess
import sys

import openvino
import pytest
import torch
from torch import Tensor, nn

from zeropoint.capture import capture
from zeropoint.engines import compile
from zeropoint.errors import InputError
from zeropoint.measure.size import on_disk
from zeropoint.methods import quantize
from zeropoint.program import Program


def precisions(program: Program) -> dict[str, set[str]]:
    """The precisions that OpenVINO runs each type of layer in."""
    core = openvino.Core()
    model = core.read_model(compile(program, "openvino").artefact)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: dict[str, set[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        found.setdefault(info["layerType"].astype(str), set()).add(info["runtimePrecision"].astype(str))
    return found


def test_every_convolution_and_linear_layer_is_an_integer_one(float32: Program, data: list[Tensor]):
    found = precisions(quantize(float32, "static", calibration=data, target="openvino"))
    assert found["Convolution"] == {"u8"}
    assert found["FullyConnected"] == {"u8"}
    assert found["Pooling"] == {"u8"}


def test_float32_is_float32(float32: Program):
    assert precisions(float32)["Convolution"] == {"f32"}


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_the_files_hold_eight_bits_a_weight(method: str):
    program = capture(nn.Linear(256, 256), torch.randn(2, 256))
    quantized = quantize(program, method, calibration=[torch.randn(2, 256)])
    assert on_disk(compile(quantized, "openvino").artefact) < 256 * 256 + 30_000


def test_results_outlive_the_next_call(float32: Program, data: list[Tensor]):
    runner = compile(float32, "openvino")
    (first,) = runner(data[0])
    kept = first.clone()
    runner(data[1])
    assert torch.equal(first, kept)


def test_nothing_is_reported_over_the_network():
    code = """
import sys, torch, zeropoint
program = zeropoint.capture(torch.nn.Linear(4, 4), torch.randn(2, 4))
zeropoint.compile(program, engine="openvino")
assert "openvino" in sys.modules and sys.modules["openvino_telemetry"] is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_disk_that_is_full_is_said_and_nothing_stays(
    float32: Program, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(InputError, match=r"cannot write .*perhaps for want of space"):
        compile(float32, "openvino", path=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
