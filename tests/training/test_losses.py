"""Quantization-aware training of any model: towards the float outputs, or by a loss of the user's own."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import options, randomized
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.errors import InputError
from zeropoint.graph.program import flat_tensors
from zeropoint.methods.losses import matching, teaching
from zeropoint.numerics.sqnr import sqnr_db

FEW = options(weight_bits=3, activation_bits=4, end_bits=3, training=zp.TrainingOptions(epochs=3))


class TwoHeads(nn.Module):
    """A mask (N, 2, 8, 8), and numbers a thousand times as large (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mask = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 2, 1)
        self.numbers = nn.Linear(16, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.body(image))
        return {"mask": self.mask(features), "numbers": 1000 * self.numbers(features.mean((2, 3)))}


def images(seed: int, count: int = 16) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


DATA = [images(seed) for seed in range(24)]


@pytest.fixture(scope="module")
def program() -> zp.Program:
    return zp.capture(randomized(TwoHeads()), images(0))


def parts_db(program: zp.Program, quantized: zp.Program) -> list[float]:
    held_out = images(100, 64)
    return [sqnr_db(*pair) for pair in zip(program.flat(held_out), quantized.flat(held_out), strict=True)]


def test_matching_by_hand(program: zp.Program):
    x = images(1)
    wanted = program.flat(x)
    outputs = (wanted[0] * 1.1, wanted[1] * 0.8)
    assert float(matching(teaching(program))((x,), outputs, None)) == pytest.approx(
        (0.01 + 0.04) / 2, rel=1e-4
    )


def test_what_the_teacher_masks_does_not_count():
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x, -torch.inf)

    x = torch.tensor([[1.0, -1.0], [-2.0, 2.0]])
    loss = matching(teaching(zp.capture(Masked(), x)))
    outputs = (torch.tensor([[1.5, -torch.inf], [-torch.inf, 2.0]], requires_grad=True),)
    value = loss((x,), outputs, None)
    value.backward()
    assert value.item() == pytest.approx(0.25 / 5)
    assert torch.equal(outputs[0].grad, torch.tensor([[0.2, 0.0], [0.0, 0.0]]))


@pytest.mark.slow
@pytest.mark.parametrize("batches", [DATA, [(x, torch.zeros(16, 8, 8)) for x in DATA]], ids=["none", "maps"])
def test_without_class_numbers_the_float_outputs_are_learned(program: zp.Program, batches):
    static = zp.quantize(program, calibration=DATA, options=FEW)
    trained = zp.train_quantized(program, batches, calibration=DATA, options=FEW)
    assert trained.method == "qat"
    before, after = parts_db(program, static), parts_db(program, trained)
    assert all(two > one + 1 for one, two in zip(before, after, strict=True))  # both, although of unlike size
    again = zp.quantize(program, "qat", calibration=DATA, train=batches, options=FEW)
    for one, two in zip(again.flat(images(1)), trained.flat(images(1)), strict=True):
        assert torch.equal(one, two)


@pytest.mark.slow
def test_a_loss_of_the_users_own_sees_outputs_and_targets_as_they_are(program: zp.Program):
    """The targets are twice the float network's masks, which only such a loss teaches."""
    data = [(x, {"mask": 2 * program(x)["mask"]}) for x in DATA]
    seen = set()

    def loss(outputs, targets):
        seen.add((type(outputs), *outputs))
        return F.mse_loss(outputs["mask"], targets["mask"])

    chosen = dataclasses.replace(FEW, training=zp.TrainingOptions(epochs=8, learning_rate=0.1))
    trained = zp.train_quantized(program, data, validation=data[:2], options=chosen, loss=loss)
    assert seen == {(dict, "mask", "numbers")}
    held_out = images(100, 64)
    wanted = 2 * program(held_out)["mask"]
    static = zp.quantize(program, calibration=DATA, options=chosen)
    errors = [float(F.mse_loss(one(held_out)["mask"], wanted)) for one in (static, trained)]
    assert errors[1] < 0.5 * errors[0]


def test_an_epoch_with_a_higher_loss_on_the_validation_data_is_not_kept(program: zp.Program):
    bad = dataclasses.replace(FEW, training=zp.TrainingOptions(epochs=1, learning_rate=3.0))
    static = zp.quantize(program, calibration=DATA, options=bad)
    trained = zp.train_quantized(program, DATA[:4], calibration=DATA, validation=DATA[4:], options=bad)
    assert min(parts_db(program, trained)) > min(parts_db(program, static)) - 1


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda outputs, targets: outputs["nothing"],
            "the loss fails on the first batch of the training data: KeyError: 'nothing'",
        ),
        (
            lambda outputs, targets: outputs["mask"],
            r"the loss gives a tensor \(16, 2, 8, 8\) on the first batch of the training data",
        ),
        (lambda outputs, targets: 0.5, "the loss gives a float on the first batch of .*; give one finite"),
        (
            lambda outputs, targets: outputs["mask"].sum() / 0,
            "the loss gives (inf|-inf|nan) on the first batch",
        ),
        (
            lambda outputs, targets: outputs["mask"].detach().sum(),
            "the loss has no gradient on the first batch of the training data; compute it from the outputs",
        ),
    ],
)
def test_a_loss_that_fails_is_said_before_any_work(
    program: zp.Program, loss, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def work(*_: object) -> None:
        raise AssertionError("a pass ran")

    monkeypatch.setattr("zeropoint.quantization.run", work)
    with pytest.raises(InputError, match=message):
        zp.quantize(program, "qat", calibration=DATA[:2], train=DATA, options=FEW, loss=loss)
    with pytest.raises(InputError, match=message):
        zp.train_quantized(program, DATA, options=FEW, loss=loss, folder=tmp_path / "run")
    data = zp.Loaders("mine", calibration=DATA[:2], evaluation=DATA[:2], train=DATA)
    with pytest.raises(InputError, match=message):
        zp.compare(program, data, out=tmp_path / "run", methods=["qat"], engines=["torch"], loss=loss)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_fails_on_the_validation_data_is_said_before_any_work(
    program: zp.Program, tmp_path: Path
):
    data = [(x, {"mask": program(x)["mask"]}) for x in DATA[:2]]

    def loss(outputs, targets):
        return F.mse_loss(outputs["mask"], targets["mask"])

    with pytest.raises(
        InputError, match="the loss fails on the first batch of the validation data: TypeError"
    ):
        zp.train_quantized(
            program, data, validation=DATA[:2], options=FEW, loss=loss, folder=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_outputs_is_told(program: zp.Program, tmp_path: Path):
    static = zp.quantize(program, calibration=DATA, options=FEW)
    other = zp.capture(nn.Conv2d(3, 2, 1), images(0))
    with pytest.raises(InputError, match=r"the teacher gives \(16, 2, 8, 8\) and the model .* same outputs"):
        zp.train_quantized(static, DATA, teacher=other, options=FEW, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_quantized_program_without_a_teacher_needs_labels_or_a_loss(program: zp.Program):
    static = zp.quantize(program, calibration=DATA, options=FEW)
    with pytest.raises(InputError, match="no class labels, and there is no float model to learn from"):
        zp.train_quantized(static, DATA, options=FEW)
    trained = zp.train_quantized(static, DATA, teacher=program, options=FEW)
    assert len(flat_tensors(trained(images(1)))) == 2
