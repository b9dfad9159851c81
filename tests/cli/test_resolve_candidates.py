from pathlib import Path

import pytest
import torch
from networks import images, residual

from zeropoint import engines
from zeropoint.cli import resolve
from zeropoint.cli.resolve import Candidate, candidate, compiled, runner_and_data, shared_inputs
from zeropoint.engines import Runner
from zeropoint.errors import InputError
from zeropoint.measure.latency import Latency
from zeropoint.tuning.choose import Choice

SETTINGS = {"threads": 1, "batch_size": 3, "weights": "default", "data": None, "say": lambda _: None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a saved Program and its artefacts."""
    folder = tmp_path_factory.mktemp("models")
    residual().save(folder / "m.pt2")
    for engine in engines.installed():
        engines.compile(residual(), engine, path=folder / "m")
    return folder


@pytest.mark.slow
def test_a_program_runs_on_the_engine_that_is_asked_for(folder):
    assert candidate(f"{folder}/m.pt2", "onnxruntime", "torch", **SETTINGS).runner.engine == "onnxruntime"
    one = candidate(f"{folder}/m.pt2", None, "torch", **SETTINGS)
    assert (one.runner.engine, one.runner.threads, one.choice) == ("torch", 1, None)
    assert one.inputs[0].shape == (3, 3, 8, 8)


@pytest.mark.parametrize("engine", [None, "auto", "onnxruntime"])
def test_an_artefact_runs_on_its_own_engine(engine, folder):
    one = candidate(f"{folder}/m.onnx", engine, "openvino", **SETTINGS)
    assert one.runner.engine == "onnxruntime"
    assert one.inputs[0].shape == (3, 3, 8, 8)


@pytest.mark.parametrize("engine", [None, "auto", "onnxruntime"])
def test_an_artefact_is_evaluated_on_its_own_engine(engine, folder):
    runner, loaders = runner_and_data(f"{folder}/m.onnx", engine, "random", 3, 2)
    assert runner.engine == "onnxruntime"
    batches = list(loaders.evaluation)
    assert [batch[0].shape for batch in batches] == [(3, 3, 8, 8)] * 2
    torch.testing.assert_close(runner(*batches[0]), residual()(*batches[0]), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="runs on no other engine"):
        runner_and_data(f"{folder}/m.onnx", "openvino", "random", 3, 2)


def test_another_engine_s_artefact_is_refused(folder):
    with pytest.raises(InputError, match=r"m\.onnx is an artefact of onnxruntime .*leave openvino out"):
        candidate(f"{folder}/m.onnx", "openvino", "torch", **SETTINGS)
    with pytest.raises(InputError, match="unknown engine 'x'"):
        candidate(f"{folder}/m.onnx", "x", "torch", **SETTINGS)


def test_data_stands_in_for_a_shape_that_the_artefact_does_not_tell(folder, monkeypatch):
    monkeypatch.setattr(resolve.engines.find("onnxruntime"), "example_inputs", lambda *_: None)
    one = candidate(f"{folder}/m.onnx", None, "torch", **SETTINGS)
    assert one.inputs is None
    with pytest.raises(InputError, match=r"m\.onnx does not tell the shape .*give --data"):
        shared_inputs([one])
    given = candidate(f"{folder}/m.onnx", None, "torch", **SETTINGS | {"data": "random:3x8x8"})
    assert given.inputs[0].shape == (3, 3, 8, 8)
    assert shared_inputs([one, given]) is given.inputs


def test_auto_is_the_fastest_engine(monkeypatch):
    choice = Choice("openvino", {"openvino": Latency(1.0, 2.0, 3.0)}, {})
    runner = Runner("openvino", 2, Path("m"), lambda *_: ())
    asked = []

    def fastest_engine(program, **options):
        asked.append(options)
        return runner, choice

    monkeypatch.setattr(resolve, "fastest_engine", fastest_engine)
    say = print
    assert compiled(residual(), "auto", threads=2, batch_size=4, say=say) == (runner, choice)
    assert asked == [{"threads": 2, "batch_size": 4, "say": say}]


def model(name: str, *inputs: torch.Tensor) -> Candidate:
    return Candidate(name, Runner("torch", 1, Path(name), lambda *_: ()), inputs)


def test_two_models_must_take_the_same_inputs():
    first = model("a", images(2), torch.zeros(2))
    assert shared_inputs([first, model("b", images(2, seed=1), torch.zeros(2))]) is first.inputs
    for other in (
        model("b", images(2)),
        model("b", images(1), torch.zeros(2)),
        model("b", images(2), torch.zeros(2).long()),
    ):
        with pytest.raises(InputError, match=r"^b takes .*; give two models of the same inputs$"):
            shared_inputs([first, other])
