"""What artefacts say of themselves: names of inputs, outputs and axes, opset and producer."""

import subprocess
import sys

import onnx
import openvino
import pytest
import torch
from networks import Attention, Pooled, Residual, images, randomized, residual

import zeropoint as zp
from zeropoint.errors import InputWarning


def dimensions(value) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0)), torch.ones(2, 7)


@pytest.fixture(scope="module")
def attention() -> zp.Program:
    return zp.capture(randomized(Attention()), tokens(), free_sizes=True)


def test_onnx_says_producer_opset_and_names(tmp_path):
    model = onnx.load(zp.compile(residual(), "onnxruntime", path=tmp_path / "m").artefact)
    assert (model.producer_name, model.producer_version) == ("zeropoint", zp.__version__)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20}
    assert [(one.name, dimensions(one)) for one in model.graph.input] == [("x", ["batch", 3, 8, 8])]
    assert [(one.name, dimensions(one)) for one in model.graph.output] == [("output", ["batch", 5])]
    onnx.checker.check_model(model, full_check=True)


def test_onnx_names_height_and_width(tmp_path):
    with pytest.warns(InputWarning):
        program = zp.capture(randomized(Pooled()), torch.randn(2, 3, 16, 16), free_sizes=True)
    runner = zp.compile(program, "onnxruntime", path=tmp_path / "m")
    assert dimensions(onnx.load(runner.artefact).graph.input[0]) == ["batch", 3, "height", "width"]
    x = torch.randn(3, 3, 20, 12)
    torch.testing.assert_close(runner(x), program(x), rtol=1e-4, atol=1e-4)


def test_onnx_names_one_length_of_two_inputs(tmp_path, attention):
    model = onnx.load(zp.compile(attention, "onnxruntime", path=tmp_path / "m").artefact)
    assert [dimensions(one) for one in model.graph.input] == [["batch", "length"]] * 2
    assert [one.name for one in model.graph.input] == ["tokens", "mask"]
    every = {size for one in model.graph.value_info for size in dimensions(one) if isinstance(size, str)}
    assert not [size for size in every if size.startswith(("s", "u")) and size[1:].isdigit()]


def test_openvino_has_the_names_of_inputs_and_outputs(tmp_path, attention):
    model = openvino.Core().read_model(zp.compile(attention, "openvino", path=tmp_path / "m").artefact)
    assert [port.any_name for port in model.inputs] == ["tokens", "mask"]
    assert [port.any_name for port in model.outputs] == ["output"]


LOAD = {
    "onnxruntime": "import onnxruntime as o, sys; s = o.SessionOptions(); s.log_severity_level = 2;"
    " o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])",
    "openvino": "import sys; sys.modules['openvino_telemetry'] = None; import openvino;"
    " openvino.Core().compile_model(sys.argv[1], 'CPU')",
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", LOAD)
@pytest.mark.parametrize("method", ["fp32", "static", "dynamic", "weight-only"])
@pytest.mark.parametrize("network", ["images", "tokens"])
def test_the_engine_loads_it_without_a_warning(engine, method, network, tmp_path):
    example = images(2) if network == "images" else tokens()
    program = zp.capture(randomized(Residual() if network == "images" else Attention()), example)
    if method != "fp32":
        program = zp.quantize(program, method, calibration=[example], target=engine)
    path = zp.compile(program, engine, path=tmp_path / "m").artefact
    command = [sys.executable, "-W", "error", "-c", LOAD[engine], str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
