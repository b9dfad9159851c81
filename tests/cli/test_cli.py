"""The command line, as a user types it: what it prints, its exit status, and what it leaves behind."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import zeropoint as zp
from zeropoint.targets import processor

USER_CODE = """
import os, time
import torch
from torch import nn

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

def make_branching():
    return Branching()

def make_failing():
    return nn.Linear(5, 5)

images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
labels = torch.arange(8) % 3
good = [(images, labels), (images[:5] + 0.1, labels[:5])]

def make_loaders():
    return {"calibration": [images], "evaluation": good, "train": good}

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, image, scale=None):
        logits = self.layer(image.flatten(1))
        return {"logits": logits if scale is None else logits * scale[:, None]}

def make_named():
    torch.manual_seed(0)
    return Named()

def of_dicts():
    batches = [{"image": x, "scale": torch.ones(len(x)), "labels": y} for x, y in good]
    return {"calibration": batches, "evaluation": batches, "train": batches}

def without_train():
    return {"calibration": [images], "evaluation": good}

def with_empty_calibration():
    return {"calibration": [], "evaluation": good}

def with_nan():
    return {"calibration": [images, images / 0], "evaluation": good}

def of_wrong_shape():
    return {"calibration": [images, images[:, :, :5]], "evaluation": good}

def with_labels_out_of_range():
    return {"calibration": [images], "evaluation": [(images, labels + 1)]}

class Endless:
    def __iter__(self):
        yield images
        print("calibrating", flush=True)
        time.sleep(60)

def that_never_end():
    return {"calibration": Endless(), "evaluation": good}

def make_pooled():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""

Result = tuple[int, str, str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with the user's model.py, and logging afterwards as it was."""
    (tmp_path / "model.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    yield tmp_path
    logging.disable(logging.NOTSET)


def assert_refused(result: Result, *parts: str) -> None:
    status, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("error:") or "Traceback" in line]
    assert status == 2
    assert len(lines) == 1
    assert err.endswith(lines[0] + "\n")
    for part in parts:
        assert part in lines[0]


GOOD = "model.py:make_model --data model.py:make_loaders"
QUANTIZE = "quantize model.py:make_model --out new.pt2"

BAD = {
    "unknown command": ("evalute m.pt2", "No such command 'evalute'", "zeropoint --help"),
    "unknown option": (f"compare {GOOD} --method static", "No such option: --method", "--methods"),
    "missing argument": ("compare", "Missing argument 'MODEL'", "zeropoint compare --help"),
    "missing option": ("compare model.py:make_model", "Missing option '--data'"),
    "no number": (f"compare {GOOD} --batch-size many", "--batch-size"),
    "number out of range": (f"compare {GOOD} --threads 0", "--threads"),
    "bits out of range": (f"compare {GOOD} --bits W9A8", "weight_bits is 9; give an int from 2 to 8"),
    "bits that no engine can run": (
        "quantize there.py:x --out new.pt2 --method dynamic --bits W4A4",
        "openvino cannot run dynamic W4A4",
        "no engine can",
    ),
    "bits that no row can run": (
        "compare there.py:x --data digits --methods dynamic --bits W4A4 --engines openvino",
        "openvino cannot run dynamic W4A4",
    ),
    "no bits": (f"compare {GOOD} --bits W4", "write W4A8"),
    "unknown range estimator": (f"compare {GOOD} --ranges kl", "unknown ranges 'kl'"),
    "unknown granularity": (f"compare {GOOD} --weight-granularity row", "unknown weight_granularity 'row'"),
    "pattern of nothing": (f"quantize {GOOD} --out new.pt2 --skip layer9", "'layer9' matches no module"),
    "unknown method": (f"compare {GOOD} --methods statik", "unknown method 'statik'; did you mean static"),
    "unknown recipe": (f"{QUANTIZE} --method statik", "unknown method 'statik'; did you mean static"),
    "unknown engine": (f"compare {GOOD} --engines onnx", "unknown engine 'onnx'", "onnxruntime"),
    "unknown engine to run": (f"bench {GOOD} --engine x", "unknown engine 'x'"),
    "unknown other engine": ("bench good.pt2 good.pt2 --other-engine x", "unknown engine 'x'"),
    "unknown engine to evaluate on": (f"evaluate {GOOD} --engine x", "unknown engine 'x'"),
    "no such artefact": ("bench there.onnx", "no such file: there.onnx"),
    "no such other model": ("bench good.pt2 there.pt2", "no such file: there.pt2"),
    "not an onnx file": ("bench text.onnx", "onnxruntime cannot load text.onnx", "compile the model again"),
    "not an openvino file": ("bench text.openvino.xml", "openvino cannot load text.openvino.xml"),
    "no openvino weights": ("bench alone.openvino.xml", "no such file: alone.openvino.bin"),
    "not a package": ("bench text.torch.aoti.pt2", "torch cannot load text.torch.aoti.pt2"),
    "another engine's artefact": ("bench good.onnx --engine openvino", "is an artefact of onnxruntime"),
    "other inputs": ("bench good.pt2 wide.onnx", "wide.onnx takes (1, 1, 9, 9)", "good.pt2 (1, 1, 6, 6)"),
    "target without data": (f"{QUANTIZE} --target auto", "give --data", "method 'static'"),
    "target without training data": (
        f"{QUANTIZE} --target auto --method qat --data model.py:without_train",
        "needs train data",
    ),
    "unknown target": (f"{QUANTIZE} --data model.py:make_loaders --target x", "unknown target 'x'; valid: "),
    "unknown model": ("bench torchvision/resnet19", "unknown model torchvision/resnet19; did you mean"),
    "unknown demo": ("bench digits/renset", "unknown model digits/renset", "did you mean resnet"),
    "unknown function": (
        "bench model.py:make_modl --data random:1x6x6",
        "model.py has no function make_modl; did you mean make_model",
    ),
    "unknown kind of model": ("bench resnet18", "unknown model resnet18"),
    "other inputs than images": (
        "compare model.py:make_model --data random",
        "model.py:make_model takes other inputs; give --data random:1x6x6",
    ),
    "no folder of images": (
        "compare model.py:make_model --data imagefolder:there",
        "no such folder: there; give imagefolder:DIR with one folder per class in it",
    ),
    "an artefact to diagnose": ("diagnose alone.openvino.xml --data random", "is an artefact of openvino"),
    "an artefact to compare": (
        "compare text.torch.aoti.pt2 --data random",
        "give the .pt2 or the model that it was made from",
    ),
    "unknown data": ("compare model.py:make_model --data cifar", "unknown data cifar"),
    "no such file": ("bench there.pt2", "no such file: there.pt2"),
    "not a model file": ("bench text.pt2", "text.pt2 is not a saved Program"),
    "truncated": ("bench truncated.pt2", "truncated.pt2 is not a saved Program, or is damaged"),
    "of another tool": ("bench zip.pt2", "zip.pt2 is not a Program saved by zeropoint"),
    "newer": ("bench newer.pt2", "newer.pt2 was saved by a newer zeropoint", "upgrade zeropoint"),
    "not exportable": (
        "compare model.py:make_branching --data model.py:make_loaders",
        "the model cannot be exported",
        "model.py:12: if x.sum() > 0:",
    ),
    "failing": ("bench model.py:make_failing --data random:1x6x6", "fails on inputs of shape (1, 1, 6, 6)"),
    "no data": (QUANTIZE, "give --data", "method 'static'"),
    "no shape of inputs": ("bench model.py:make_model", "give --data", "model.py:make_model"),
    "no training data": (f"{QUANTIZE} --method qat --data model.py:without_train", "needs train data"),
    "no training data to compare": (
        "compare model.py:make_model --data model.py:without_train --methods qat",
        "qat needs training data",
    ),
    "empty calibration": (f"{QUANTIZE} --data model.py:with_empty_calibration", "no batch"),
    "NaN": (f"{QUANTIZE} --data model.py:with_nan", "calibration batch", "holds NaN or Inf"),
    "wrong shape": (f"{QUANTIZE} --data model.py:of_wrong_shape", "has shape (8, 1, 5, 6); the model takes"),
    "wrong shape of other data": (f"{QUANTIZE} --data random:3x6x6", "fails on inputs of shape"),
    "wrong shape to evaluate": (
        "evaluate good.pt2 --data random:2x6x6",
        "evaluation batch 1 has shape (32, 2, 6, 6)",
    ),
    "wrong shape to calibrate": (
        "quantize good.pt2 --data random:2x6x6 --out new.pt2",
        "has shape (32, 2, 6, 6)",
    ),
    "labels out of range": (
        "evaluate model.py:make_model --data model.py:with_labels_out_of_range",
        "batch 1: label 3 is out of range",
    ),
    "quantized already": ("quantize static.pt2 --method dynamic --out new.pt2", "is static already"),
    "free sizes of a saved model": (
        "quantize good.pt2 --method dynamic --free-sizes --out new.pt2",
        "good.pt2 is captured already",
    ),
    "out in a file": (f"quantize {GOOD} --method dynamic --out model.py/new.pt2", "cannot write"),
    "out of another kind": (f"quantize {GOOD} --method dynamic --out new.onnx", "give such a name"),
    "run folder in a file": (f"compare {GOOD} --out model.py", "cannot write to model.py"),
}  # fmt: skip


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model file, and the bad ones that are made from it."""
    import torch
    from torch import nn

    from zeropoint import capture, compile, quantize

    folder = tmp_path_factory.mktemp("saved")
    images = torch.randn(2, 1, 6, 6)
    program = capture(nn.Conv2d(1, 4, 3), images)
    program.save(folder / "good.pt2")
    quantize(program, calibration=[images]).save(folder / "static.pt2")
    good = (folder / "good.pt2").read_bytes()
    compile(program, "onnxruntime", path=folder / "good")
    compile(capture(nn.Conv2d(1, 4, 3), torch.randn(2, 1, 9, 9)), "onnxruntime", path=folder / "wide")
    for name in ("text.pt2", "text.onnx", "text.openvino.xml", "text.openvino.bin", "text.torch.aoti.pt2"):
        (folder / name).write_text("not a zip file")
    (folder / "alone.openvino.xml").touch()
    (folder / "truncated.pt2").write_bytes(good[: len(good) // 2])
    with zipfile.ZipFile(folder / "zip.pt2", "w") as archive:
        archive.writestr("x/readme", "hello")
    with zipfile.ZipFile(folder / "good.pt2") as old, zipfile.ZipFile(folder / "newer.pt2", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("zeropoint.json"):
                content = json.dumps({**json.loads(content), "version": 99}).encode()
            new.writestr(name, content)
    return folder


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_line(bad: str, folder: Path, saved: Path, command):
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    before = {path.name for path in folder.iterdir()}
    line, *parts = BAD[bad]
    assert_refused(command(line), *parts)
    assert {path.name for path in folder.iterdir()} - before <= {"__pycache__"}


def test_debug_shows_the_traceback(command):
    status, _, err = command("--debug bench there.pt2")
    assert status == 2
    assert "Traceback" in err
    assert err.endswith("error: no such file: there.pt2\n")


def test_a_fault_of_ours_is_told_apart(command, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero\nsecond line")

    monkeypatch.setattr("zeropoint.data.resolve", fail)
    status, _, err = command(f"compare {GOOD}")
    assert status == 1
    assert err == "error: ZeroDivisionError: by zero (a bug in zeropoint; --debug shows where)\n"


@pytest.mark.slow
def test_compare_prints_the_table_and_continues(command, folder: Path):
    line = f"compare {GOOD} --methods fp32,static, --engines onnxruntime --skip 4 --ranges minmax"
    status, out, err = command(line)
    assert status == 0
    assert "Ship " in out
    assert "Results: runs/model.py-make_model/results.json" in out
    assert out.endswith("\nReport: runs/model.py-make_model/report.html\n")
    assert "timing 2 rows, interleaved with eager float32" in err
    record = json.loads((folder / "runs/model.py-make_model/results.json").read_text())
    assert record["command"] == f"zeropoint {line}"
    assert record["options"]["skip"] == ["4"]
    assert record["images"] == 13
    status, out, err = command(line)
    assert status == 0
    assert err.endswith("\ncontinuing the run in runs/model.py-make_model; finished rows: 2\n")
    assert_refused(command(f"{line} --end-bits 4"), "holds a comparison with other options")


METRICS = """
def shares(outputs, labels):
    return (outputs.argmax(1) == labels).float()

def broken(outputs, labels):
    return outputs["boxes"]
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--task segmentatoin", ("unknown task segmentatoin; did you mean segmentation?",)),
        (
            "--task regression",
            ("the targets are int64 (8,), not values (8, 3)", "give a --task or a --metric"),
        ),
        ("--task segmentation", ("not scores (N, C, H, W)",)),
        ("--metric mIoU", ("the task classification has no metric mIoU; give --task segmentation",)),
        ("--metric metrics.py", ("name the function too, as in metrics.py:metric",)),
        ("--metric metrics.py:share", ("metrics.py has no function share; did you mean shares?",)),
        ("--metric metrics.py:broken", ("broken fails on batch 1: ",)),
        ("--postprocess metrics.py:none", ("metrics.py has no function none",)),
    ],
)
def test_tasks_and_metrics_that_do_not_fit_are_one_line(command, folder: Path, options: str, told: tuple):
    (folder / "metrics.py").write_text(METRICS)
    assert_refused(command(f"evaluate {GOOD} --engine onnxruntime {options}"), *told)


@pytest.mark.slow
def test_evaluate_with_metrics_of_a_file(command, folder: Path):
    (folder / "metrics.py").write_text(METRICS)
    line = f"evaluate {GOOD} --engine onnxruntime --task classification"
    line += " --metric metrics.py:shares --metric top-1"
    status, out, _ = command(f"{line} --json")
    record = json.loads(out)
    assert status == 0
    assert record["task"] == "classification"
    assert [one["name"] for one in record["metrics"]] == ["shares", "top-1"]
    assert record["metrics"][0]["value"] == pytest.approx(record["metrics"][1]["value"])
    assert "shares" in command(line)[1]


@pytest.fixture
def run_folder(folder: Path) -> Path:
    from zeropoint.measure.results import Results, Row
    from zeropoint.report.files import save

    rows = (Row("fp32", "torch", 32, 32, top1=0.9), Row("static", "torch", 8, 8, error="no compiler"))
    machine = {"processor": "a processor"}
    save(
        Results("2026", "zeropoint compare x", "x", "digits", 1, 1, 9, machine, {}, {}, "", rows=rows), "run"
    )
    return folder / "run"


def test_report_of_one_run_and_of_two(command, run_folder: Path, folder: Path):
    assert command("report run") == (0, "Report: run/report.html\n", "")
    assert "static on torch failed: no compiler" in (run_folder / "report.html").read_text()
    shutil.copytree(run_folder, folder / "other")
    assert command("report run other") == (0, "Report: report.html\n", "")
    assert "x (other)" in (folder / "report.html").read_text()
    assert command("report run other --out new/both.html")[1] == "Report: new/both.html\n"


def test_report_of_what_is_no_run(command, run_folder: Path, folder: Path):
    assert_refused(command("report"), "Missing argument 'RUN...'")
    assert_refused(command("report nowhere"), "no results.json in nowhere", "zeropoint compare --out")
    (folder / "empty").mkdir()
    assert_refused(command("report run empty"), "no results.json in empty")
    assert_refused(command("report run --out empty"), "cannot write empty: it is a folder")
    record = json.loads((run_folder / "results.json").read_text())
    del record["fingerprint"]
    (run_folder / "results.json").write_text(json.dumps(record))
    assert_refused(command("report run"), "missing required field `fingerprint`", "compare again")
    (run_folder / "results.json").write_text('{"schema": 2, "rows": [')
    assert_refused(command("report run"), "truncated or not JSON")
    assert not (folder / "report.html").exists()
    assert not (run_folder / "report.html").exists()


@pytest.mark.slow
def test_compare_without_the_reports_libraries(command, folder: Path, monkeypatch: pytest.MonkeyPatch):
    import zeropoint.comparison.compare  # noqa: F401

    monkeypatch.setitem(sys.modules, "plotly", None)
    for name in ("html", "charts", "layer_charts", "layer_pages"):
        monkeypatch.delitem(sys.modules, f"zeropoint.report.{name}", raising=False)
    status, out, _ = command(f"compare {GOOD} --methods fp32 --engines onnxruntime")
    assert status == 0
    why = "Plotly and Jinja2 are not installed; run: pip install 'zeropoint[report]'"
    assert out.endswith(f"\nNo report: {why}\n")
    assert_refused(command("report runs/model.py-make_model"), why)


@pytest.mark.slow
def test_free_sizes(command, folder: Path):
    from zeropoint import load
    from zeropoint.graph.sizes import has_free_sizes

    line = "quantize model.py:make_pooled --method dynamic --data random:1x6x6 --out new.pt2"
    assert command(line)[0] == 0
    assert_refused(
        command("evaluate new.pt2 --data random:1x9x7 --engine onnxruntime"),
        "axis 2 was fixed at capture",
        "--free-sizes",
    )
    status, _, err = command(f"{line} --free-sizes")
    assert status == 0
    assert err.endswith("\nwarning: axis 1 of input 1 stays 1: 0 takes no other\n")
    assert has_free_sizes(load(folder / "new.pt2").module)
    assert command("evaluate new.pt2 --data random:1x9x7 --engine onnxruntime")[0] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_fresh_process")
def test_another_processor_is_told_and_simulated(command, folder: Path, monkeypatch: pytest.MonkeyPatch):
    data = "--data model.py:make_loaders"
    assert_refused(
        command(f"{QUANTIZE} {data} --processor avx1"),
        "unknown processor 'avx1'; valid: native, amx, vnni, avx512, avx2, arm, any",
    )
    line = f"{QUANTIZE} {data} --target torch --processor arm"
    assert_refused(command(line), "the PyTorch compiler has int8 kernels for x86 processors alone")
    assert command(f"{QUANTIZE} {data} --processor vnni --target onnxruntime")[0] == 0
    monkeypatch.setattr(processor, "native", lambda: processor.PROCESSORS["avx2"])
    status, out, err = command(f"evaluate new.pt2 {data} --processor avx2")
    assert status == 0
    assert out.endswith(" on 13 samples (simulated on avx2)\n")
    assert "warning" not in err
    status, out, err = command(f"evaluate new.pt2 {data} --engine onnxruntime")
    assert status == 0
    assert "warning: the Program was made for x86 with VNNI: its int8 results overflow on this" in err
    assert err.endswith("quantize with --processor avx2, or any for all processors\n")
    # An artefact that was made for another one says so, too.
    zp.compile(zp.load(folder / "new.pt2"), "onnxruntime", path=folder / "new")
    status, _, err = command("bench new.onnx --seconds 0.1")
    assert status == 0
    assert "warning: new.onnx was made for x86 with VNNI" in err


@pytest.mark.slow
def test_quantize_evaluate_and_bench(command, folder: Path):
    status, out, _ = command(f"{QUANTIZE} --data model.py:make_loaders --bits W4A8")
    assert status == 0
    assert out.startswith("static W4A8 for openvino in ")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    status, out, _ = command("evaluate new.pt2 --data model.py:make_loaders --engine openvino")
    assert status == 0
    assert out.startswith("top-1 ")
    assert "on 13 samples (openvino)" in out
    status, out, _ = command("evaluate new.pt2 --data random:1x6x6 --limit-batches 1 --engine openvino")
    assert "32 samples, no targets" in out


LOSS = """
def twice(outputs, targets):
    return 2 * F.cross_entropy(outputs["logits"], targets)
"""


@pytest.mark.slow
def test_loaders_of_dicts_and_a_loss_of_a_file(command, folder: Path):
    model = (folder / "model.py").read_text()
    (folder / "own.py").write_text("import torch.nn.functional as F\n" + model + LOSS)
    data = "own.py:make_named --data own.py:of_dicts"
    assert command(f"quantize {data} --target onnxruntime --out d.pt2")[0] == 0
    status, out, _ = command("evaluate d.pt2 --data own.py:of_dicts --engine onnxruntime --json")
    assert status == 0
    assert json.loads(out)["images"] == 13
    train = f"qat {data} --target onnxruntime --epochs 1 --loss"
    assert command(f"{train} own.py:twice --out run")[0] == 0
    assert command(f"{train} task --task classification --out run2")[0] == 0
    assert_refused(command(f"{train} own.py:nothing --out run3"), "nothing")
    assert_refused(command(f"{train} task --out run3"), "there is no loss of a task: give --task, one of")
    assert_refused(command(f"{train} mse --out run3"), "unknown loss 'mse'; give FILE.py:NAME")
    assert not (folder / "run3").exists()


@pytest.mark.slow
def test_bench_measures_two_models_in_time_and_memory(command, folder: Path, saved: Path):
    for name in ("good.pt2", "good.onnx"):
        (folder / name).write_bytes((saved / name).read_bytes())
    line = "bench good.pt2 good.onnx --engine onnxruntime --seconds 0.1 --batch-size 2 --json out/bench.json"
    status, out, err = command(line)
    assert status == 0
    assert "batch 2, 1 thread" in out
    assert "good.onnx on onnxruntime is " in out
    assert "in a fresh process" in err
    record = json.loads((folder / "out/bench.json").read_text())
    assert record["command"] == f"zeropoint {line}"
    assert [one["model"] for one in record["models"]] == ["good.pt2", "good.onnx"]
    for one in record["models"]:
        latency = one["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        assert one["items_per_second"] == pytest.approx(2 / (latency["p50"] / 1000))
        assert one["cold_start"]["load_seconds"] > 0
        assert one["cold_start"]["first_call_seconds"] > 0
        assert 0 < one["cold_start"]["model_memory_bytes"] < one["cold_start"]["peak_memory_bytes"]
    speedup = record["speedup"]
    assert 0 < speedup["low"] <= speedup["median"] <= speedup["high"]
    assert ("no difference was found" in out) != speedup["differs"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, no_fresh_process: None) -> None:
    """No fresh processes, and no engine that starts a C++ compiler."""
    from zeropoint.measure import benchmark

    monkeypatch.setattr("zeropoint.tuning.choose.installed", lambda: ["onnxruntime", "openvino"])
    interleave = benchmark.interleave
    monkeypatch.setattr(
        "zeropoint.tuning.choose.interleave", lambda runs, seconds: interleave(runs, seconds=0)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_auto_takes_the_fastest_engine(command, folder: Path, saved: Path):
    (folder / "good.pt2").write_bytes((saved / "good.pt2").read_bytes())
    status, out, _ = command("bench good.pt2 --engine auto --seconds 0.1 --json bench.json")
    assert status == 0
    (one,) = json.loads((folder / "bench.json").read_text())["models"]
    assert one["engine"] == one["choice"]["engine"]
    assert one["choice"]["latency_ms"].keys() == {"onnxruntime", "openvino"}
    assert out.startswith(f"fastest engine: {one['engine']} (")
    status, out, _ = command("evaluate model.py:make_model --data model.py:make_loaders --engine auto")
    assert status == 0
    assert out.startswith("fastest engine: ")
    assert "on 13 samples (" in out


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_auto_quantizes_for_the_fastest_target(command, folder: Path):
    from zeropoint import load

    status, out, err = command(f"{QUANTIZE} --data model.py:make_loaders --target auto")
    assert status == 0
    target = load(folder / "new.pt2").target
    assert out.startswith(f"fastest engine: {target} (")
    assert f"static W8A8 for {target} in " in out
    assert "static W8A8 on openvino: compiling" in err


def test_help_names_every_command_and_warns_of_code_that_is_run(command):
    status, out, _ = command("--help")
    assert status == 0
    for name in ("compare", "quantize", "evaluate", "bench", "train"):
        assert name in out
    assert command("")[0] == 0
    status, out, _ = command("compare --help")
    assert "runs the code" in " ".join(out.replace("│", " ").split())


@pytest.mark.slow
def test_module_is_the_same_command():
    arguments = [sys.executable, "-m", "zeropoint", "bench", "there.pt2"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no such file: there.pt2\n")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_while_calibrating(folder: Path, number: signal.Signals, status: int):
    arguments = [sys.executable, "-m", "zeropoint", *QUANTIZE.split(), "--data", "model.py:that_never_end"]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it runs in the background ignore Ctrl-C, the tests with all that they start.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stdout is not None
    while "calibrating" not in process.stdout.readline():
        assert process.poll() is None
    for _ in range(20):  # one that falls into an import is lost
        time.sleep(0.5)
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, err = process.communicate(timeout=3)
            break
    assert process.returncode == status
    assert "interrupted" in err
    assert "Traceback" not in err
    assert {path.name for path in folder.iterdir()} <= {"model.py", "__pycache__"}


@pytest.mark.slow
@pytest.mark.parametrize("line", [QUANTIZE, "compare model.py:make_model --engines onnxruntime --out run"])
def test_ctrl_c_while_distilling_and_on_from_there(line: str, command, folder: Path, monkeypatch):
    distil = importlib.import_module("zeropoint.passes.distil")  # not the function of the same name
    line += f" --data model.py:make_loaders --method{'s' * line.startswith('compare')} static-best"
    mixed, steps = distil._mixed, itertools.count(1)
    monkeypatch.setattr(distil, "MANY_BITS", dataclasses.replace(distil.MANY_BITS, most=50))

    def interrupt(*arguments):
        if next(steps) == 30:
            raise KeyboardInterrupt
        return mixed(*arguments)

    monkeypatch.setattr(distil, "_mixed", interrupt)
    status, _, err = command(line)
    (kept,) = folder.rglob("*.checkpoint")
    assert status == 130
    assert err.splitlines()[-1] == (
        f"interrupted; distilling is saved at step 25 of 50 in {kept.relative_to(folder)};"
        " the same command again continues from there"
    )
    assert command(line)[0] == 0
    assert next(steps) == 30 + 25 + 1
    assert not list(folder.rglob("*.checkpoint"))


@pytest.fixture
def full_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 kB, all but full."""
    disk = folder / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    try:
        (disk / "filler").write_bytes(bytes(60_000))
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk(command, full_disk: Path):
    line = "quantize model.py:make_model --method dynamic --data random:1x6x6 --out disk/new.pt2"
    assert_refused(command(line), "cannot write disk/new.pt2", "No space left")
    assert_refused(
        command(f"compare {GOOD} --methods fp32 --engines openvino --out disk/run"), "No space left"
    )
    assert [path.name for path in full_disk.rglob("*") if path.name.startswith(".")] == []
