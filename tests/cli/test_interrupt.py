"""What Ctrl-C leaves behind and says: what is saved and where, and how to go on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zeropoint.training.loop import _Loop

USER_CODE = """
import torch
from torch import nn

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

x, y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3

def make_loaders():
    return {"calibration": [x], "evaluation": [(x, y)], "train": [(x, y)] * 4}
"""
GOOD = "mine.py:make_model --data mine.py:make_loaders"
FP32 = f"{GOOD} --methods fp32 --engines onnxruntime"
NOTHING = "interrupted; nothing was saved"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the user's mine.py."""
    (tmp_path / "mine.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"__pycache__", "mine.py"}


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (f"evaluate {GOOD} --engine onnxruntime", "zeropoint.measure.evaluate.split"),
        (f"bench {GOOD} --engine onnxruntime", "zeropoint.measure.benchmark.benchmark"),
        (f"quantize {GOOD} --out new.pt2", "zeropoint.quantization.run"),
        (f"quantize {GOOD} --out new.pt2", "zeropoint.graph.program.archive.repack"),
        (f"quantize {GOOD} --out new --parts 0", "zeropoint.parts.quantize.compared"),
        (f"quantize {GOOD} --out new --parts 0", "zeropoint.parts.result.msgspec.json.format"),
        (f"compare {FP32} --parts 0", "zeropoint.parts.compare.interleave"),
        (f"compare {FP32} --out run", "zeropoint.comparison.runners.lower"),
        (f"compare {GOOD} --methods static --out run", "zeropoint.comparison.compare.quantize"),
        (f"qat {GOOD} --out run", "zeropoint.methods.qat.fine_tuned"),
        (f"train {GOOD} --out new.safetensors", "zeropoint.training.loop._Loop.run"),
        (f"diagnose {GOOD} --apply new.pt2", "zeropoint.diagnosis.diagnose.diagnose"),
    ],
)  # fmt: skip
def test_where_nothing_is_saved_that_is_said_and_nothing_stays(
    line: str, place: str, command: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(place, stop)
    status, _, err = command(line)
    assert (status, err.splitlines()[-1]) == (130, NOTHING)
    assert names(folder) == set()


def test_a_comparison_tells_its_rows(command: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch):
    line = f"compare {GOOD} --methods fp32,static --engines onnxruntime --out run"
    with monkeypatch.context() as patch:
        patch.setattr("zeropoint.comparison.compare.quantize", stop)
        status, _, err = command(line)
    told = "interrupted; 1 row is saved in run; the same command again continues from there"
    assert (status, err.splitlines()[-1]) == (130, told)
    with monkeypatch.context() as patch:
        patch.setattr("zeropoint.report.html.write", stop)
        status, _, err = command(line)
    assert "continuing the run in run; finished rows: 1" in err
    told = "interrupted; what was measured is saved in run; zeropoint report run draws the report"
    assert (status, err.splitlines()[-1]) == (130, told)


def test_a_training_tells_its_step_and_an_earlier_one(
    command: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    line = f"qat {GOOD} --out run --epochs 2 --minutes 0.000001"
    descend, calls = _Loop._descend, []

    def interrupted(self: _Loop, *arguments: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        descend(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "_descend", interrupted)
        status, _, err = command(line)
    on = "the same command with --resume continues from there"
    told = f"interrupted; training is saved at step 2 of 8 in run/last.checkpoint; {on}"
    assert (status, err.splitlines()[-1]) == (130, told)
    with monkeypatch.context() as patch:
        patch.setattr("zeropoint.quantization.run", stop)
        status, _, err = command(f"{line} --resume")
    told = f"interrupted; nothing new is saved, and run/last.checkpoint is as it was; {on}"
    assert (status, err.splitlines()[-1]) == (130, told)
    assert command(f"{line} --resume")[0] == 0
    assert names(folder / "run") == {"settings.json", "last.checkpoint", "metrics.jsonl", "program.pt2"}
