"""``--parts`` of the command line."""

import json
from pathlib import Path

import pytest

USER_CODE = """
import torch
from torch import nn

class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Linear(16, 4)

    def forward(self, x):
        features = self.body(x)
        return self.head(features) if features.mean() > 1e6 else self.head(features * 2)

def make_model():
    torch.manual_seed(0)
    return Routed()

def make_loaders():
    batches = [torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    return {"calibration": batches, "evaluation": batches}

def make_labelled():
    model, batches = make_model(), make_loaders()["evaluation"]
    pairs = [(x, (model(x).argmax(1) + torch.arange(8).ge(6)) % 4) for x in batches]
    return {"calibration": batches, "evaluation": pairs}
"""
MODEL = "routed.py:make_model --data routed.py:make_loaders"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with the user's routed.py."""
    (tmp_path / "routed.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)


def test_quantize_writes_a_folder_of_parts(command):
    status, out, err = command(
        f"quantize {MODEL} --parts auto --out saved --method dynamic --target onnxruntime"
    )
    assert status == 0, err
    assert "2 parts on onnxruntime: 100.0% of the multiply-accumulates" in out
    assert "not a part: the whole model: the model cannot be exported" in out
    files = sorted(path.name for path in Path("saved").iterdir())
    assert files == ["0-body.pt2", "1-head.pt2", "parts.json"]


@pytest.mark.slow
def test_compare_prints_the_model_with_and_without(command):
    line = f"compare {MODEL} --parts body,head --methods fp32,static --engines onnxruntime --json"
    status, out, err = command(line)
    assert status == 0, err
    whole, same, quantized = json.loads(out)["rows"]
    assert (whole["engine"], whole["parts"], whole["speedup"]) == ("PyTorch, whole", 0, 1)
    assert (same["method"], same["parts"], same["error"]) == ("fp32", 2, None)
    assert (quantized["method"], quantized["parts"]) == ("static W8A8", 2)
    assert 25 < quantized["sqnr_db"] < 60
    assert all(row["latency_ms"]["p50"] > 0 for row in (whole, same, quantized))


def test_compare_measures_the_metrics_of_a_task(command):
    line = "compare routed.py:make_model --data routed.py:make_labelled --parts body,head --methods fp32"
    line += " --engines onnxruntime --task classification"
    status, out, err = command(f"{line} --json")
    assert status == 0, err
    assert [row["values"] for row in json.loads(out)["rows"]] == [{"top-1": 0.75}] * 2
    _, table, _ = command(line)
    assert "Top-1" in table
    assert table.count("75.00") == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"compare {MODEL} --parts auto --max-drop 1", "--parts takes no --max-drop: its table has no"),
        (f"compare {MODEL} --parts auto --out run", "--parts takes no --out: its table is only printed"),
        (f"compare {MODEL} --parts auto --loss own.py:loss", "--parts takes no --loss: no method for parts"),
        (f"compare {MODEL} --parts auto --free-sizes", "--parts takes no --free-sizes: a part takes the"),
        (f"compare {MODEL} --parts auto --latency-batch-size 4", "takes no --latency-batch-size: a whole"),
        (f"compare {MODEL} --parts auto --bits W8A8,W4A8", "takes no several --bits: one table is of one"),
        (f"quantize {MODEL} --parts auto --out saved --loss own.py:loss", "--parts takes no --loss"),
        (f"quantize {MODEL} --parts auto --out saved --free-sizes", "--parts takes no --free-sizes"),
        (f"quantize {MODEL} --parts auto --out m.pt2", "parts are saved in a folder"),
        (f"quantize {MODEL} --parts bdy --out saved", "no module of the model matches 'bdy'"),
        ("quantize m.pt2 --data random --parts auto --out saved", "m.pt2 is captured already"),
    ],
)
def test_what_cannot_be_is_one_line(command, line, message):
    status, _, err = command(line)
    assert status == 2
    assert message in err
    assert not Path("saved").exists()
