"""The folder of a training: which settings must be the same, an early stop, the order of the data."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import test_quantized
import torch
import torch.nn.functional as F
from networks import clusters
from test_quantized import FEW, TRAINING, outputs, trained
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import zeropoint as zp
from zeropoint.data.batches import limit
from zeropoint.errors import InputError
from zeropoint.training.loop import _Loop

program = test_quantized.program  # the fixture


def mean_distance(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - F.one_hot(labels, 8)).abs().mean()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"loss": mean_distance}, r"loss none, not mean_distance \w{12}"),
        ({"train": clusters()[:-1]}, "batches 4, not 3"),
        ({"train": clusters(seed=5)}, r"data \w{12}…, not \w{12}…"),
        ({"validation": None}, "validation_batches 4, not 0"),
    ],
)
def test_another_loss_or_other_data_in_the_folder_is_told(
    program: zp.Program, tmp_path: Path, changed: dict[str, object], told: str
):
    given = {"train": clusters(), "validation": clusters(seed=3), "options": FEW, "folder": tmp_path}
    zp.train_quantized(program, **given)
    with pytest.raises(InputError, match=f"holds a training with {told}; give the same, or another --out"):
        zp.train_quantized(program, **given | changed, resume=True)


def test_another_teacher_in_the_folder_is_told(program: zp.Program, tmp_path: Path):
    static = zp.quantize(program, calibration=clusters(), options=FEW)
    trained(static, teacher=program, folder=tmp_path)
    with pytest.raises(InputError, match=r"a training with teacher \w{12}…, not none;"):
        trained(static, folder=tmp_path, resume=True)


def test_data_in_another_order_every_time_can_still_be_resumed(program: zp.Program, tmp_path: Path):
    order = itertools.count()

    class Changing:
        def __iter__(self):
            first = next(order) % 4
            return iter(clusters()[first:] + clusters()[:first])

    for resume in (False, True):
        zp.train_quantized(program, Changing(), options=FEW, folder=tmp_path, resume=resume)


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("bad data")])
def test_a_training_that_stops_before_its_first_checkpoint_leaves_no_folder(
    program: zp.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    def stop(*_: object) -> None:
        raise error

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("of the user")
    with monkeypatch.context() as patch:
        patch.setattr("zeropoint.methods.qat.fine_tuned", stop)
        for name in ("new", "there"):
            with pytest.raises(type(error) if isinstance(error, InputError) else error):
                trained(program, folder=tmp_path / name)
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["notes.txt"]
    trained(program, folder=tmp_path / "there")


class CutError(Exception):
    """Training that stops in the middle."""


@pytest.mark.parametrize("batches", [None, 5])
def test_a_data_loader_with_a_generator_goes_on_in_the_order_of_its_epoch(
    program: zp.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int | None
):
    """The loader's generator is in another state when the training goes on."""
    inputs, labels = (torch.cat(parts) for parts in zip(*clusters(), strict=True))

    def run(**arguments: object) -> zp.Program:
        generator = torch.Generator().manual_seed(0)
        data = DataLoader(TensorDataset(inputs, labels), 16, shuffle=True, generator=generator)
        return zp.train_quantized(
            program, limit(data, batches), calibration=clusters(), options=options, **arguments
        )

    options = dataclasses.replace(FEW, training=dataclasses.replace(TRAINING, epochs=2, minutes=1e-9))
    expected = run()
    epoch, calls = _Loop._descend, itertools.count(1)

    def descend(self: _Loop, *arguments: object) -> None:
        if next(calls) == 8:
            raise CutError
        epoch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "_descend", descend)
        with pytest.raises(CutError):
            run(folder=tmp_path / "run")
    assert torch.equal(outputs(run(folder=tmp_path / "run", resume=True)), outputs(expected))
