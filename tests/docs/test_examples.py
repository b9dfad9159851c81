"""The scripts in examples/ run as they stand, and print what they promise."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs an example as ``python examples/NAME.py`` does, without waiting for PyTorch to be imported."""

    def run_(name: str, folder: Path) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [name])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run_


def alone(name: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def top1(line_start: str, output: str) -> float:
    (found,) = re.findall(rf"^{re.escape(line_start)}: top-1 ([\d.]+)%", output, re.MULTILINE)
    return float(found)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60


def test_every_example_is_run_by_a_test_below():
    tests = Path(__file__).read_text(encoding="utf-8")
    assert {path.stem for path in EXAMPLES} == set(re.findall(r'(?:run|alone)\("(\w+)", tmp_path\)', tests))


@pytest.mark.slow
def test_an_artefact_runs_without_zeropoint(run, tmp_path):
    accuracy, sqnr = re.findall(r"([\d.]+)(?:%| dB)", run("quantize", tmp_path))
    assert float(accuracy) > 98
    assert float(sqnr) > 30
    script = (ROOT / "examples" / "deploy.py").read_text(encoding="utf-8")
    assert not re.search(r"^(import|from) (zeropoint|torch)", script, re.MULTILINE)
    recognized = re.search(r"([\d.]+)% of 1797", alone("deploy", tmp_path))
    assert recognized is not None
    assert float(recognized[1]) > 98


@pytest.mark.slow
def test_a_network_of_ones_own_keeps_its_accuracy(run, tmp_path):
    output = run("own_model", tmp_path)
    assert top1("float32", output) > 85
    assert abs(top1("float32", output) - top1("int8", output)) < 2


@pytest.mark.slow
def test_compare_gives_every_row(run, tmp_path, monkeypatch):
    monkeypatch.setattr("zeropoint.comparison.runners.LATENCY_SECONDS", 0.0)
    output = run("compare", tmp_path)
    rows = re.findall(r"^(\S.*): top-1", output, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 3
    artefact = re.search(r"^smallest: .*W4A8.*, in (\S+)$", output, re.MULTILINE)
    assert artefact is not None
    assert (tmp_path / artefact[1]).exists()


@pytest.mark.slow
def test_fixed_layers_lose_less(run, tmp_path):
    output = run("spare_layers", tmp_path)
    assert top1("W4A4", output) < top1("W4A4 with fixes", output) <= top1("float32", output) + 1


@pytest.mark.slow
def test_training_keeps_the_better_network(run, tmp_path):
    output = run("train", tmp_path)
    assert 98 < top1("static W2A2", output) <= top1("trained W2A2", output)


@pytest.mark.slow
def test_segmentation_is_judged_by_its_iou(run, tmp_path, monkeypatch):
    monkeypatch.setattr("zeropoint.comparison.runners.LATENCY_SECONDS", 0.0)
    ious = dict(re.findall(r"^(\S+ on \S+): mIoU ([\d.]+)%", run("segmentation", tmp_path), re.MULTILINE))
    assert len(ious) == 4
    assert all(float(iou) > 85 for iou in ious.values())
    assert float(ious["fp32 on openvino"]) - float(ious["static on openvino"]) < 1
    assert "keep mIoU within 0.5 points of float32's" in (
        tmp_path / "runs" / "segmentation" / "results.md"
    ).read_text(encoding="utf-8").replace("keeps", "keep")


@pytest.mark.slow
def test_regression_with_a_metric_of_ones_own(run, tmp_path):
    found = re.findall(
        r"^\S+: MAE ([\d.]+), within fifty ([\d.]+)%$", run("regression", tmp_path), re.MULTILINE
    )
    (mae, near), (mae8, near8) = found
    assert float(mae) < 50  # the mean of the training targets has 66.7
    assert abs(float(mae) - float(mae8)) < 0.5
    assert abs(float(near) - float(near8)) < 3
