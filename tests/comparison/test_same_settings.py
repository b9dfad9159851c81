"""Which functions and data of the user's a run folder belongs to."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.errors import InputError

pytestmark = pytest.mark.slow  # every one measures several rows

X, Y = torch.rand(8, 3), torch.arange(8) % 2
DATA = [(X, Y), (X.flip(0), Y)]
TRAINING = zp.TrainingOptions(epochs=1)


def share(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float()


def first_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def second_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) * 2


def halved(outputs: Tensor) -> Tensor:
    return outputs / 2


@pytest.fixture(scope="module")
def program() -> zp.Program:
    torch.manual_seed(0)
    return zp.capture(nn.Linear(3, 2), X)


def run(program: zp.Program, out: Path, method: str, train: Any = DATA, **given: Any) -> zp.Results:
    data = zp.Loaders("mine", calibration=[X], evaluation=DATA, train=train)
    options = zp.Options(training=TRAINING)
    return zp.compare(
        program, data, out=out, methods=[method], engines=["onnxruntime"], options=options, **given
    )


def test_another_loss_or_other_training_data_is_another_comparison(program: zp.Program, tmp_path: Path):
    run(program, tmp_path, "fp32")  # trains nothing, so that any loss may follow
    assert len(run(program, tmp_path, "qat", loss=first_loss).rows) == 2
    assert len(run(program, tmp_path, "qat", loss=first_loss).rows) == 2
    with pytest.raises(InputError, match=r"another loss: first_loss \w{12} and not second_loss \w{12}; give"):
        run(program, tmp_path, "qat", loss=second_loss)
    with pytest.raises(InputError, match=r"another loss: first_loss \w{12} and not none; give"):
        run(program, tmp_path, "qat")
    with pytest.raises(InputError, match=r"another training data: \w{12} and not \w{12}; give another --out"):
        run(program, tmp_path, "qat", DATA[::-1], loss=first_loss)
    assert len(run(program, tmp_path, "fp32", loss=second_loss).rows) == 2  # nothing is trained by it
    with pytest.raises(InputError, match="another loss"):
        run(program, tmp_path, "qat", loss=second_loss)


def test_another_postprocessing_or_metric_is_another_comparison(
    program: zp.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(program, tmp_path, "fp32", metrics=share, postprocess=halved)
    with pytest.raises(InputError, match=r"another postprocess: halved \w{12} and not none"):
        run(program, tmp_path, "fp32", metrics=share)

    def other(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).float()

    other.__name__ = other.__qualname__ = "share"
    with pytest.raises(InputError, match=r"another metric share: share \w{12} and not share \w{12}"):
        run(program, tmp_path, "fp32", metrics=other, postprocess=halved)
