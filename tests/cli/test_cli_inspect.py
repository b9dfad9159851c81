"""``zeropoint inspect``, ``--quiet`` and ``--json`` as a user types them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zeropoint import progress
from zeropoint.targets.processor import native

USER_CODE = """
import torch
from torch import nn

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))

def make_loaders():
    return {"calibration": [images], "evaluation": [(images, torch.arange(8) % 3)]}
"""
DATA = "--data model.py:make_loaders"
Command = Callable[[str], tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder to work in, with the user's model.py, and progress lines afterwards as they were."""
    (tmp_path / "model.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    yield
    progress.be_quiet(False)


def quantized(command: Command, name: str, options: str) -> str:
    assert command(f"quantize model.py:make_model {DATA} --out {name} {options}")[0] == 0
    return name


def test_inspect_a_float_model(command: Command):
    status, out, err = command(f"inspect model.py:make_model {DATA}")
    assert (status, err) == (0, "")
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    # a kernel of 3x3 for each of 4 outputs at 4x4 places
    assert lines["0"] == ["0", "conv2d", "4×1×3×3", "4×4×4", "float32", "160", "576"]
    assert lines["4"] == ["4", "linear", "3×64", "3", "float32", "780", "192"]
    assert "1 × relu" in out


def test_inspect_beside_the_float_model_and_two_quantized(command: Command):
    rounded = quantized(command, "rounded.pt2", "--rounding nearest --target onnxruntime --skip 4")
    status, out, _ = command(f"inspect model.py:make_model {rounded} {DATA}")
    assert status == 0
    assert f"static W8A8 for onnxruntime on {native().name} · skipped: 4" in out
    assert "(1) stayed float: skipped by the user ('4'): 4" in out
    assert max(map(len, out.splitlines())) <= 120
    dynamic = quantized(command, "dynamic.pt2", "--method dynamic")
    status, out, _ = command(f"inspect {dynamic}")
    assert "dynamic quantization leaves a convolution untouched" in " ".join(out.split())
    assert "the file holds no float weights" in out
    status, out, _ = command(f"inspect {rounded} {dynamic}")
    assert status == 0
    assert "2 layers shown, which differ" in out


def test_json_is_all_that_stdout_holds(command: Command):
    rounded = quantized(command, "rounded.pt2", "--rounding nearest")
    status, out, err = command(f"inspect model.py:make_model {rounded} {DATA} --json --layer 0 --values 36")
    assert (status, err) == (0, "")
    record = json.loads(out)
    before, after = record["models"]
    (layer,) = after["layers"]
    assert [one["name"] for one in before["layers"]] == ["0"]
    weight = layer["weights"][0]
    assert len(weight["values"]) == 36
    for value in weight["values"]:
        scale = weight["grid"]["scale"][value["index"][0]]
        assert value["scale"] == scale
        assert value["integer"] == round(value["source"] / scale)
    unit = layer["inputs"][0]["grid"]["scale"][0] * weight["grid"]["scale"][2]
    assert layer["bias"]["values"][2]["unit"] == pytest.approx(unit)
    assert layer["bias"]["values"][2]["value"] == pytest.approx(layer["bias"]["values"][2]["units"] * unit)


def test_one_layer_in_full(command: Command):
    rounded = quantized(command, "rounded.pt2", "--rounding nearest")
    status, out, _ = command(f"inspect model.py:make_model {rounded} {DATA} --layer 1")
    assert status == 0
    assert out.startswith("0 · conv2d · in integers")
    assert "inside: batch_norm '1': folded into weight and bias" in out
    assert "100.00% of its integers are the weights of the float model, rounded to nearest" in out
    assert "the first 27 of 36 values" in out
    assert "*" not in out


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("inspect rounded.pt2 --layer 44", ["'44' matches no layer of the model", "did you mean 4"]),
        ("inspect there.pt2", ["no such file: there.pt2"]),
        ("inspect model.onnx", ["no such file: model.onnx"]),
        ("inspect truncated.pt2", ["truncated.pt2 is not a saved Program, or is damaged"]),
        ("inspect rounded.pt2 digits/mobilenet --layer 9 --values x", ["--values"]),
        ("inspect model.py:make_model", ["give --data"]),
    ],
)
def test_bad_input_is_one_line(command: Command, line: str, parts: list[str]):
    if "rounded" in line or "truncated" in line:
        rounded = Path(quantized(command, "rounded.pt2", "--rounding nearest"))
        Path("truncated.pt2").write_bytes(rounded.read_bytes()[:1500])
    status, out, err = command(line)
    assert (status, out, err.count("\n")) == (2, "", 1)
    for part in parts:
        assert part in err


@pytest.mark.slow
def test_quiet_prints_results_alone(command: Command, monkeypatch: pytest.MonkeyPatch):
    line = f"evaluate model.py:make_model {DATA} --engine onnxruntime"
    status, out, err = command(line)
    assert "fp32 on onnxruntime: compiling" in err
    assert command(f"--quiet {line}") == (status, out, "")
    assert command(f"{line} --quiet") == (status, out, "")
    assert out.startswith("top-1 ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert not progress.is_watched()
    progress.be_quiet(False)
    assert progress.is_watched()


@pytest.mark.slow
def test_evaluate_and_compare_print_json(command: Command):
    status, out, _ = command(f"evaluate model.py:make_model {DATA} --json")
    record = json.loads(out)
    assert (status, record["images"], record["engine"]) == (0, 8, "torch")
    assert 0 <= record["top1"] <= 1
    status, out, err = command(
        f"compare model.py:make_model {DATA} --methods fp32 --engines onnxruntime --json --quiet --out run"
    )
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(Path("run/results.json").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("no_fresh_process")
def test_bench_prints_json(command: Command):
    status, out, _ = command(f"bench model.py:make_model {DATA} --engine onnxruntime --seconds 0.1 --json -")
    assert status == 0
    assert json.loads(out)["models"][0]["engine"] == "onnxruntime"


def test_completion_knows_the_commands(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_ZEROPOINT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "zeropoint ins")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert command("") == (0, "inspect\n", "")


def test_rules_that_applied_and_why_others_did_not(command: Command):
    assert command(f"quantize model.py:make_model {DATA} --skip 4 --out m.pt2")[0] == 0
    code, out, _ = command("inspect m.pt2 --rules")
    assert code == 0
    assert "weight of a layer" in out
    assert "skipped by the user ('4')" in out
