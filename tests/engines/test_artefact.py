import json
import zipfile
from pathlib import Path

import pytest
import torch
from networks import images, randomized, residual
from torch import Tensor, nn

from zeropoint import engines
from zeropoint.engines import Runner, artefact
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture


def example_inputs(runner: Runner, batch_size: int) -> tuple[Tensor, ...] | None:
    return engines.find(runner.engine).example_inputs(runner.artefact, batch_size)


@pytest.mark.slow
@pytest.mark.parametrize("engine", engines.NAMES)
def test_what_compile_writes_is_opened_by_its_name(engine, tmp_path):
    written = engines.compile(residual(), engine, threads=1, path=tmp_path / "model.v2")
    assert artefact.engine_of(written.artefact) == engine
    opened = artefact.load(written.artefact, threads=1)
    assert (opened.engine, opened.threads, opened.artefact) == (engine, 1, written.artefact)
    assert torch.equal(opened(images()), written(images()))


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_the_file_tells_the_shape_of_inputs(engine, tmp_path):
    runner = engines.compile(residual(), engine, path=tmp_path / "model")
    (inputs,) = example_inputs(runner, batch_size=5)
    assert (inputs.shape, inputs.dtype) == ((5, 3, 8, 8), torch.float32)


@pytest.mark.parametrize(
    ("shape", "expected"), [([-1, 3, 8], (5, 3, 8)), ([2, 3, 8], (2, 3, 8)), ([-1, 3, -1], None), ([], ())]
)
def test_shapes_of_openvino_s_files(shape, expected, tmp_path):
    engines.find("openvino").unsupported("fp32")  # imports it without its telemetry
    openvino = pytest.importorskip("openvino")
    parameter = openvino.opset13.parameter(shape, openvino.Type.f16)
    model = openvino.Model([openvino.opset13.relu(parameter)], [parameter])
    openvino.save_model(model, tmp_path / "model.openvino.xml", compress_to_fp16=False)
    runner = Runner("openvino", 1, tmp_path / "model.openvino.xml", lambda *_: ())
    inputs = example_inputs(runner, batch_size=5)
    if expected is None:
        assert inputs is None
    else:
        assert [(one.shape, one.dtype) for one in inputs] == [(expected, torch.float16)]


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_fixed_batch_is_kept(engine, tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1).softmax(-1)

    program = capture(Fixed(), torch.randn(2, 3, 4))
    assert not program.dynamic_batch
    opened = artefact.load(engines.compile(program, engine, path=tmp_path / "model").artefact)
    (inputs,) = example_inputs(opened, batch_size=5)
    assert inputs.shape == (2, 3, 4)


def test_types_that_are_no_floats_are_stood_in_for_by_zeros(tmp_path):
    program = capture(randomized(nn.Embedding(7, 3)), torch.tensor([[1, 2, 6]]))
    opened = artefact.load(engines.compile(program, "onnxruntime", path=tmp_path / "model").artefact)
    (inputs,) = example_inputs(opened, batch_size=2)
    assert torch.equal(inputs, torch.zeros(2, 3, dtype=torch.int64))
    assert opened(inputs).shape == (2, 3, 3)


def test_another_free_dimension_is_not_guessed(tmp_path):
    onnx = pytest.importorskip("onnx")
    kind = onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(name, kind, ["batch", "length"]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "free", *[[v] for v in values]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "free.onnx")
    assert example_inputs(artefact.load(tmp_path / "free.onnx"), batch_size=2) is None


def package(path: Path, batch: str) -> Runner:
    """A Runner on a file like a compiled package for batches of that size, which is never run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "model/data/aotinductor/model/abc.wrapper_metadata.json", json.dumps({"zeropoint_batch": batch})
        )
    return Runner("torch", 1, path, lambda *_: ())


def test_a_package_tells_its_batch_but_no_shape(tmp_path):
    path = tmp_path / "model.torch.aoti.pt2"
    assert example_inputs(package(path, "4"), batch_size=4) is None
    assert example_inputs(package(path, ""), batch_size=3) is None
    with pytest.raises(InputError, match=r"is compiled for batches of 4; give --batch-size 4"):
        example_inputs(package(path, "4"), batch_size=1)


@pytest.mark.parametrize("ending", artefact.endings())
def test_missing_and_damaged_files_are_explained_in_a_line(ending, tmp_path):
    path = tmp_path / f"model{ending}"
    with pytest.raises(InputError, match=f"no such file: .*model{ending}$"):
        artefact.load(path)
    path.write_text("not a model")
    path.with_suffix(".bin").touch()
    with pytest.raises(InputError, match=f"model{ending}.*again$") as info:
        artefact.load(path)
    assert "\n" not in str(info.value)


@pytest.mark.slow
def test_weights_that_are_not_beside_the_graph_are_asked_for(tmp_path):
    written = engines.compile(residual(), "openvino", path=tmp_path / "model").artefact
    written.with_suffix(".bin").unlink()
    with pytest.raises(InputError, match=r"model\.openvino\.bin, which is part of .*model\.openvino\.xml"):
        artefact.load(written)


def test_other_files_are_no_artefacts():
    assert artefact.engine_of("model.pt2") is None
    assert artefact.engine_of("folder.onnx/model.pt") is None
    with pytest.raises(
        InputError,
        match=r"model\.xml is not an artefact of an engine; give a file that ends in \.torch\.aoti\.pt2, ",
    ):
        artefact.load("model.xml")
