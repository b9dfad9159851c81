"""Shipped folders: what is in them, and that they compute what zeropoint does, without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Residual, images, randomized

import zeropoint as zp
from zeropoint.models.source import Preprocessing
from zeropoint.shipping import ship as ship_module
from zeropoint.shipping.folder import SCRIPTS, digests
from zeropoint.targets.processor import native

# Finds modules everywhere but torch and zeropoint.
ALONE = """
import runpy, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(f"{{name}} is not there")
sys.meta_path.insert(0, Refused())
sys.argv = sys.argv[1:]
sys.path.insert(0, {folder!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship_module, "SECONDS", 0.0)


def alone(folder: Path, script: str, *arguments: str, refused=("torch", "zeropoint")):
    """Runs a script of a folder in a Python that finds neither torch nor zeropoint."""
    code = ALONE.format(refused=set(refused), folder=str(folder))
    command = [sys.executable, "-c", code, str(folder / script), *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_it_predicts_without_torch_and_zeropoint(shipped, quantized, inputs, pictures, tmp_path):
    done = alone(shipped, "predict.py", *map(str, pictures), "--top", "1", "--out", str(tmp_path / "o.npz"))
    assert done.returncode == 0, done.stderr
    scores = quantized(inputs)
    names = ["ant", "bee", "cat", "dog", "eel"]
    expected = [names[int(k)] for k in scores.argmax(1)]
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines] == expected
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in pictures]
    shares = torch.softmax(scores, 1).max(1).values
    printed = [float(line.rsplit(maxsplit=1)[1].rstrip("%")) / 100 for line in lines]
    assert np.allclose(printed, shares, atol=0.02)


def test_its_outputs_are_those_of_the_runner_to_the_bit(shipped, quantized, inputs, tmp_path):
    runner = zp.compile(quantized, "onnxruntime", threads=1, path=tmp_path / "m")
    with np.load(shipped / "golden" / "outputs.npz") as file:
        assert np.array_equal(file["output"], runner(inputs).numpy())


def test_the_manifest_says_what_the_model_takes_and_gives(original):
    made = json.loads((original / "manifest.json").read_text())
    assert made["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]
    (output,) = made["outputs"]
    assert output["shape"] == ["batch", 5]
    assert output["meaning"] == "a score for each class"
    assert made["labels"] == ["ant", "bee", "cat", "dog", "eel"]
    assert made["preprocessing"] == {
        "resize": 10, "crop": [8, 8], "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25],
        "interpolation": "bilinear", "channels": "RGB", "divide_by": 255, "layout": "NCHW",
    }  # fmt: skip
    assert made["measured"]["kernels"]["int8"] == 3
    assert made["measured"]["latency_ms"]["p50"] > 0
    assert made["files"] == digests(original)
    readme = (original / "README.md").read_text()
    assert "python predict.py golden/images/*" in readme
    assert "x" in readme.split("| input |")[1].split("|")[0]
    assert (original / "requirements.txt").read_text().splitlines()[1:] == ["numpy", "pillow"]


def test_scripts_need_the_engine_and_numpy_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "PIL", "predict", "differences", "batches"}
    for path in SCRIPTS.glob("*.py"):
        words = [line.split() for line in path.read_text().splitlines()]
        imported = {line[1].split(".")[0] for line in words if line[:1] in (["import"], ["from"])}
        engine = path.stem.removeprefix("engine_")
        needs = {
            "executorch": {"executorch", "torch"},  # whose Python imports torch
            "batches": {"torch"},
        }.get(engine, {engine})
        has_engine = engine != path.stem or engine == "batches"
        assert imported <= allowed | (needs if has_engine else set()), path.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "method"),
    [("openvino", "static"), ("torch", "static"), ("torch", "fp32"), ("executorch", "static")],
)
def test_every_engine_is_shipped(engine, method, inputs, tmp_path):
    program = zp.capture(randomized(Residual()), inputs[:2])
    if method == "static":
        program = zp.quantize(program, method, calibration=[inputs], target=engine)
    made = zp.ship(program, engine, tmp_path / "out", inputs=inputs)
    assert made["preprocessing"] is None
    layers = made["measured"]["kernels"]
    # Without VNNI OpenVINO computes linear layers in float.
    in_float = engine == "openvino" and native().saturates
    assert layers["int8"] == (0 if method == "fp32" else 3 - in_float)
    refused = ("zeropoint",) if engine in ("torch", "executorch") else ("torch", "zeropoint")
    done = alone(tmp_path / "out", "verify.py", "--seconds", "0", refused=refused)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to the golden ones to the bit" in done.stdout
    lines = (tmp_path / "out" / "requirements.txt").read_text()
    assert ("torch==" in lines) == (engine == "executorch" or (engine, method) == ("torch", "static"))


class Two(torch.nn.Module):
    """Two inputs and two outputs; the batch is the second axis."""

    def forward(self, steps, scale):
        return {"scaled": steps * scale, "sums": steps.sum(0)}


def test_several_inputs_and_outputs_go_by_name(tmp_path):
    steps = torch.randn(3, 6, 4)
    program = zp.capture(Two(), (steps, torch.ones(3, 6, 4)))
    made = zp.ship(program, "onnxruntime", tmp_path / "out", inputs=(steps, 2 * torch.ones(3, 6, 4)))
    assert [port["name"] for port in made["inputs"]] == ["steps", "scale"]
    with np.load(tmp_path / "out" / "golden" / "outputs.npz") as file:
        assert np.array_equal(file["scaled"], 2 * file["scaled"] / 2)
        taken = steps[:, : file["scaled"].shape[1]] if made["inputs"][0]["shape"][1] == "batch" else steps
        assert file["scaled"].shape[1] in (4, 6)
        rows = [slice(None), slice(0, file["scaled"].shape[1])]
        assert np.allclose(file["scaled"], 2 * steps[tuple(rows)][: file["scaled"].shape[0]])
        assert len(taken)
    done = alone(tmp_path / "out", "predict.py", str(tmp_path / "out" / "golden" / "inputs.npz"))
    assert done.stdout.splitlines()[0].startswith("scaled: float32")


def test_preprocessing_that_the_record_does_not_tell_is_left_out(tmp_path, quantized, inputs, pictures):
    said: list[str] = []
    how = Preprocessing(resize=8, crop=(8, 8))
    made = zp.ship(
        quantized,
        "onnxruntime",
        tmp_path / "o",
        inputs=inputs,
        preprocessing=how,
        images=pictures,
        say=said.append,
    )
    assert made["preprocessing"] is None
    assert made["golden"]["images"] == []
    assert not (tmp_path / "o" / "golden" / "images").exists()
    assert "give its inputs as an .npz file: x float32 (batch, 3, 8, 8)" in said[-1]
    done = alone(tmp_path / "o", "predict.py", str(pictures[0]))
    assert done.returncode == 2
    assert "error: this model takes no image files: give its inputs" in done.stderr


def test_a_folder_that_exists_is_kept(shipped, quantized):
    before = digests(shipped)
    with pytest.raises(zp.InputError, match="is not empty; give a new folder"):
        zp.ship(quantized, "onnxruntime", shipped)
    assert digests(shipped) == before


def test_nothing_stays_of_a_folder_that_fails(tmp_path, quantized, monkeypatch):
    monkeypatch.setattr("zeropoint.shipping.folder.SCRIPTS", tmp_path / "scripts")
    (tmp_path / "scripts").mkdir()
    for path in SCRIPTS.glob("*.py"):
        text = (
            path.read_text()
            .replace("model = load", "model = lod")
            .replace("model = predict.load", "raise predict.WrongError('no'); model = predict.load")
        )
        (tmp_path / "scripts" / path.name).write_text(text)
    with pytest.raises(zp.InputError, match="the folder does not run by itself: no"):
        zp.ship(quantized, "onnxruntime", tmp_path / "deep" / "out")
    assert not [path for path in tmp_path.rglob("*") if "out" in path.name]


def test_a_missing_engine_is_one_line(tmp_path, quantized, monkeypatch):
    monkeypatch.setattr("zeropoint.engines.onnxruntime.PACKAGES", ("no_such_package",))
    with pytest.raises(zp.InputError, match=r"engine 'onnxruntime' is not installed.*pip install"):
        zp.ship(quantized, "onnxruntime", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 8, 9), np.float32), r"x has shape \(2, 3, 8, 9\); give \(batch, 3, 8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.int64), "x is int64; give float32"),
    ],
)
def test_wrong_inputs_are_one_line(original, scripts, array, message):
    model = scripts.predict.load(original)
    with pytest.raises(scripts.predict.WrongError, match=message):
        model({"x": array})
    with pytest.raises(scripts.predict.WrongError, match="the model takes x; image was given"):
        model({"image": array})


def test_more_shapes_than_are_compiled_for_give_the_same(original, scripts, quantized):
    model = scripts.predict.load(original)
    for batch in (1, 2, 3, 5, 6, 7):
        found = model({"x": images(batch).numpy()})["output"]
        assert np.allclose(found, quantized(images(batch)), atol=0.3)
    assert len(model.runs) == scripts.predict.KEPT + 1
