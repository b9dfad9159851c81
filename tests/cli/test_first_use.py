"""Wrong models and data of a first user: each is told in one line, and leaves nothing."""

from pathlib import Path

import pytest

USER_CODE = """
import torch
from torch import nn

x, y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

def with_nan():
    model = make_model()
    model[2].bias.data[1] = float("nan")
    return model

def on_meta():
    return make_model().to("meta")

def loaders(calibration=None, evaluation=None, train=None, **more):
    good = [(x, y)] * 2
    return {
        "calibration": calibration or [x], "evaluation": evaluation or good, "train": train or good, **more
    }

class Failing:
    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches
        raise ValueError("disk gone")

def failing_calibration(): return loaders(calibration=Failing(x))
def failing_evaluation(): return loaders(evaluation=Failing((x, y)))
def failing_train(): return loaders(train=Failing((x, y)))
def failing_at_once(): return loaders(train=Failing())
def one_hot(): return loaders(evaluation=[(x, torch.eye(3)[y])], train=[(x, torch.eye(3)[y])])
def few_labels(): return loaders(train=[(x, y[:4])])
def wrong_train(): return loaders(train=[(x[:, :5], y)])
def wrong_key(): return loaders([{"imge": x}], [{"imge": x, "labels": y}])
def of_float64(): return loaders([x.double()])

def not_a_number(outputs, targets): return float("nan")
"""
GOOD = "mine.py:make_model --data mine.py:loaders"
MODEL = "mine.py:make_model --data mine.py"
ONNX = (
    "new.onnx is an ONNX model, and quantization starts from PyTorch; give the model that it was exported"
    " from, as FILE.py:FUNCTION or .pt2; bench and evaluate run the file as it is"
)
BAD = {
    f"quantize {MODEL}:failing_calibration --out new.pt2": "the calibration data fails at batch 2: ValueErro",
    f"quantize {MODEL}:failing_calibration --out new --parts 0": "the data fails at batch 2: ValueError: dis",
    f"evaluate {MODEL}:failing_evaluation": "the evaluation data fails at batch 2: ValueError: disk gone",
    f"compare {MODEL}:failing_evaluation --methods fp32": "data fails at batch 2: ValueError: disk gone",
    f"qat {MODEL}:failing_train --out run": "the training data fails at batch 2: ValueError: disk gone",
    f"qat {MODEL}:failing_at_once --out run": "fails at batch 1: ValueError: disk gone",
    f"qat {MODEL}:few_labels --out run": "the training data has 4 labels for 8 rows; give one for each",
    f"qat {MODEL}:wrong_train --out run": "the first batch of the training data has shape (8, 5); the model",
    f"qat {GOOD} --out run --teacher mine.py:make_model": "a float model teaches itself; leave the teacher o",
    f"qat {GOOD} --out run --task clasification": "unknown task clasification; did you mean classification",
    f"compare {MODEL}:one_hot --methods fp32": "no class numbers but one-hot; give class numbers, their argm",
    f"compare {MODEL}:wrong_train --methods qat": "the first batch of the training data has shape (8, 5)",
    f"compare {MODEL}:wrong_key": "given as one dict input with imge, labels, as the model's parameters are",
    f"quantize {MODEL}:of_float64 --out new.pt2": "is of torch.float64; the model takes torch.float32: use .",
    "compare mine.py:with_nan --data mine.py:loaders": "2.bias of the model holds NaN or Inf; load weights t",
    "compare mine.py:on_meta --data mine.py:loaders": "a model on the meta device, without weights; load the",
    f"quantize {GOOD} --out new --parts 7": "no module of the model matches '7'; valid: 0, 1, 2",
    f"quantize {GOOD} --out . --parts 0": ". is not empty; give a new folder",
    f"bench {GOOD} --json mine.py/new.json": "mine.py is no folder to write in; choose another place",
    "report mine.py": (
        "no results.json in mine.py: give the folder that `zeropoint compare --out` or tune wrote"
    ),
    "compare there.onnx --data random": "no such file: there.onnx",
    "compare new.onnx --data random": ONNX,
    "quantize new.onnx --data random --out new.pt2": ONNX,
    "diagnose new.onnx --data random": ONNX,
    "qat new.onnx --data random --out run": ONNX,
    "train new.onnx --data mine.py:loaders --out new.safetensors": ONNX,
    "compare new.onnx --data random --parts auto": ONNX,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the user's mine.py and a file that says it is ONNX."""
    (tmp_path / "mine.py").write_text(USER_CODE)
    (tmp_path / "new.onnx").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(line: str, command, folder: Path):
    engines = " --engines onnxruntime" if line.startswith("compare") else ""
    folder_of_run = " --out run" if engines and "--parts" not in line else ""
    status, _, err = command(line + engines + folder_of_run)
    errors = [one for one in err.splitlines() if one.startswith("error:") or "Traceback" in one]
    assert (status, len(errors)) == (2, 1)
    assert BAD[line] in errors[0]
    assert {path.name for path in folder.iterdir()} <= {"mine.py", "new.onnx", "__pycache__"}


def test_targets_that_training_does_not_read_are_told(command, folder: Path):
    status, _, err = command(f"qat {MODEL}:one_hot --out run --epochs 1")
    assert status == 0
    assert (
        "warning: the targets are float32 (8, 3), no class numbers, and are not read: the training is towards"
        " the float model's outputs; give a loss (--loss) to train by them"
    ) in err.splitlines()


def test_a_metric_that_is_no_number_is_shown_as_it_is(command):
    status, out, _ = command(f"evaluate {GOOD} --metric mine.py:not_a_number")
    assert (status, out) == (0, "not_a_number nan on 16 samples (torch)\n")
