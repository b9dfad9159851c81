import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def imported(monkeypatch):
    """Imports a module as a script in benchmarks/ does."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def table(imported):
    return imported("coverage_table")


def record(name: str, ours: float, theirs: float, parity: float = 0.0) -> dict:
    run = {"seconds": 1.0, "compile_seconds": 0.5, "sqnr_db": ours, "parity_db": parity, "int8_share": 1.0}
    return {
        "name": name,
        "capture": {"seconds": 1.0, "parameters": 1000, "sensitivity_db": 60.0},
        "openvino": run,
        "nncf": {"seconds": 4.0, "sqnr_db": theirs},
    }


REFUSED = {"name": "bad", "capture": {"error": "the model fails on inputs of shape (4, 3): 'x' is missing"}}


def test_the_counts_are_of_those_that_were_run(table):
    records = [record("a", 30.0, 29.0), record("b", 20.0, 24.0, parity=0.6), REFUSED]
    lines = table.counts(records).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines}
    assert cells["captured"] == "2 of 3"
    assert cells["quantized and run"] == "2 of 2"
    assert cells["parity within 0.5 dB"] == "1 of 2 (50%)"
    assert cells["SQNR of 25 dB and more"] == "1 of 2 (50%)"
    assert cells["at most 1 dB below the other tool"] == "1 of 2 (50%)"
    assert cells["its seconds ÷ ours, median"] == "2.00"


def test_a_network_in_parts_counts_apart(table):
    in_parts = {"seconds": 2.0, "parts": 3, "share": 0.9, "sqnr_db": 31.0}
    records = [record("a", 30.0, 29.0), REFUSED | {"openvino": in_parts}]
    lines = table.counts(records).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines}
    assert cells["captured"] == "1 of 2"
    assert cells["others in parts"] == "1"
    assert cells["quantized and run"] == "1 of 1"
    assert "31.0 | in 3 parts" in table.markdown(records)


@pytest.mark.slow
def test_a_network_that_cannot_be_captured_runs_in_parts(imported):
    stages = imported("coverage_stages")

    class Loop(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))

        def forward(self, x):
            return self.body(x) if float(x.sum()) < 1e9 else x

    spec = imported("architectures.spec")
    case = stages.case_of(spec.Architecture("loop", Loop, (spec.Noise((8,)),)))
    found = stages.on_engine(case, "openvino")
    assert found["parts"] == 1
    assert found["sqnr_db"] >= 25


def test_failures_of_one_cause_are_one_line(table):
    other = {
        "name": "worse",
        "capture": {"error": "the model fails on inputs of shape (8, 5): 'y' is missing"},
    }
    text = table.failures([REFUSED, other, record("low", 24.9, 30.0)])
    assert "- capture, 2: the model fails on inputs of shape (4, 3): 'x' is missing\n  (bad, worse)" in text
    assert "- openvino, 1: SQNR below 25 dB\n  (low (24.9 dB))" in text


SMALLEST = (
    "coordinate-attention", "mixed-pools", "radial-basis", "factorization-machine", "tcn", "text-cnn",
    "inception-branches", "gan-generator", "aspp", "unet", "siamese", "shuffles", "variational", "point-net",
    "deep-sets", "forecast", "contrastive", "relative-attention", "super-resolution", "feature-pyramid",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_small_pattern_keeps_its_outputs(imported, name):
    stages = imported("coverage_stages")
    case = stages.case_of(imported("architectures").architectures()[f"pattern/{name}"])
    stages.capture(case)
    for engine in ("openvino", "onnxruntime"):
        found = stages.on_engine(case, engine)
        assert found["sqnr_db"] >= 25
        assert found["parity_db"] <= 0.5


@pytest.mark.slow  # each network in a process of its own
def test_the_script_writes_records_and_the_table(tmp_path):
    chosen = ["--only", "pattern/radial-basis", "--only", "pattern/point-net", "--engines", "openvino"]
    script = [sys.executable, "benchmarks/coverage.py", *chosen, "--no-peers", "--out", str(tmp_path)]
    subprocess.run(script, cwd=ROOT, check=True, timeout=500)
    records = list(map(json.loads, (tmp_path / "coverage.jsonl").read_text().splitlines()))
    assert sorted(one["name"] for one in records) == ["pattern/point-net", "pattern/radial-basis"]
    assert not [one for one in records if "error" in one["capture"] or one["openvino"]["sqnr_db"] < 25]
    assert "| captured | 2 of 2 |" in (tmp_path / "coverage.md").read_text()
