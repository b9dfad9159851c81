"""Distillation: what it matches, by hand, and that it comes nearer to float on items it has not seen."""

import dataclasses
import functools
import itertools
from pathlib import Path

import pytest
import torch
from networks import ADDS_INSIDE, images, options, randomized, residual, round_to_nearest, sqnr
from torch import Tensor, nn

from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.operators import FAKE_QUANTIZE
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.passes import distil as module_of
from zeropoint.passes.distil import _items, _lessons, _mixed, _taps, distil
from zeropoint.quantization import quantize


def steps(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(
        module_of, "FEW_BITS", dataclasses.replace(module_of.FEW_BITS, least=count, most=count)
    )


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps(monkeypatch, 100)


DATA = [images(16, seed) for seed in range(4)]
UNSEEN = images(64, 99)


def rounded(**chosen: object):
    program = residual()
    return program, round_to_nearest(program, ADDS_INSIDE, DATA, options(**chosen))


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "gain"), [(3, 0.8), (8, -0.5)])
def test_nearer_to_float_on_items_not_seen(bits: int, gain: float, monkeypatch: pytest.MonkeyPatch):
    steps(monkeypatch, 200)
    program, start = rounded(weight_bits=bits, end_bits=bits, activation_bits=8)
    before = {name: value.clone() for name, value in start.module.state_dict().items()}
    taught = distil(start, start, DATA)
    expected = program(UNSEEN)
    assert sqnr(expected, taught(UNSEEN)) > sqnr(expected, start(UNSEEN)) + gain
    for name, value in start.module.state_dict().items():
        assert torch.equal(value, before[name])
    kinds = {node.target for node in taught.module.graph.nodes if node.target in FAKE_QUANTIZE}
    assert kinds == {node.target for node in start.module.graph.nodes if node.target in FAKE_QUANTIZE}
    assert [q.scheme for q in quantizers(taught.module)] == [q.scheme for q in quantizers(start.module)]


@pytest.mark.slow
def test_never_worse_on_what_is_held_out(monkeypatch: pytest.MonkeyPatch):
    ruinous = dataclasses.replace(module_of.MANY_BITS, rate=1e3, least=25, most=25)
    monkeypatch.setattr(module_of, "MANY_BITS", ruinous)
    _, start = rounded()
    assert torch.equal(distil(start, start, DATA)(UNSEEN), start(UNSEEN))


def test_too_few_items_to_hold_any_out_leave_the_program_as_it_is():
    _, start = rounded(weight_bits=2)
    assert distil(start, start, [images(7)]) is start


@pytest.mark.slow
def test_the_same_seed_gives_the_same_program(monkeypatch: pytest.MonkeyPatch):
    steps(monkeypatch, 30)
    _, start = rounded(weight_bits=3, end_bits=3)
    one, two, other = (distil(start, start, DATA, seed)(UNSEEN) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_matched_are_a_few_of_the_block_ends(monkeypatch: pytest.MonkeyPatch):
    module = residual().module
    assert _taps(module) == ["conv2d", "batch_norm", "relu_", "add", "relu"]
    monkeypatch.setattr(module_of, "MATCHED", 2)
    assert _taps(module) == ["conv2d", "add"]


def test_distance_by_hand(monkeypatch: pytest.MonkeyPatch):
    ones, twos = torch.ones(1, 2, 2), torch.full((1, 2, 2), 2.0)
    # Outputs: half the size, a quarter of the square. Blocks: one right, one twice the size: (0 + 1) / 2.
    values = {"student": ([ones], [ones, twos]), "teacher": ([twos], [ones, ones])}
    monkeypatch.setattr(module_of, "_values", lambda module, *_: values[module])
    every = functools.partial(without_hidden, [])
    found = module_of._loss("student", "teacher", [], every, [ones])
    torch.testing.assert_close(found, torch.tensor(0.25 + 0.5))
    # At a position that is hidden nothing counts.
    values["student"] = ([torch.tensor([[[1.0, 1.0], [-99.0, 99.0]]])], [ones, twos])
    mask = torch.tensor([[1, 0]])
    shown = functools.partial(without_hidden, ["attention_mask"])
    torch.testing.assert_close(
        module_of._loss("student", "teacher", [], shown, [mask]), torch.tensor(0.25 + 0.5)
    )


def test_mixing_is_of_neighbours_and_leaves_tokens_alone():
    generator = torch.Generator().manual_seed(0)
    items = torch.tensor([[0.0], [10.0], [100.0]])
    (mixed,) = _mixed([items], generator)
    before = torch.tensor([[100.0], [0.0], [10.0]])
    share = (mixed - items) / (before - items)
    assert ((share >= 0) & (share <= 0.5)).all()
    assert share.std() > 0
    tokens = torch.arange(6).reshape(2, 3)
    assert _mixed([tokens], generator)[0] is tokens


def test_items_are_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "MEMORY", 40 * images(1).numel() * 4)

    def endless():
        while True:
            yield images(16)

    assert len(_items(endless())[0]) == 64  # the batch that goes beyond is the last one


@pytest.mark.slow
def test_static_best_is_no_worse_than_static(monkeypatch: pytest.MonkeyPatch):
    steps(monkeypatch, 400)
    program = residual()
    chosen = options(weight_bits=3, end_bits=3, rounding="gptq")
    both = [
        quantize(program, method, calibration=DATA, target=ADDS_INSIDE, options=chosen)
        for method in ("static", "static-best")
    ]
    assert [one.method for one in both] == ["static", "static-best"]
    expected = program(UNSEEN)
    static, best = (sqnr(expected, one(UNSEEN)) for one in both)
    assert best > static


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch):
    """Has the given gradient step be interrupted, as by Ctrl-C."""

    def at(step: int) -> None:
        mixed, calls = module_of._mixed, itertools.count(1)

        def counted(*arguments):
            if next(calls) == step:
                raise KeyboardInterrupt
            return mixed(*arguments)

        monkeypatch.setattr(module_of, "_mixed", counted)

    return at


@pytest.mark.slow
def test_an_interrupted_distillation_goes_on_to_the_same_weights(tmp_path: Path, interrupted):
    program = residual()
    chosen = options(weight_bits=3, end_bits=3, rounding="gptq")

    def run(path: Path) -> Program:
        return quantize(
            program, "static-best", calibration=DATA, target=ADDS_INSIDE, options=chosen, checkpoint=path
        )

    whole = run(tmp_path / "whole")
    interrupted(60)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt, match=r"distilling is saved at step 50 of 100 in .*cut"):
        run(cut)
    interrupted(60)  # 50 steps are left
    resumed = run(cut)
    weights = resumed.module.state_dict()
    assert weights.keys() == whole.module.state_dict().keys()
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(weights[name], tensor)
    assert resumed.module.code == whole.module.code
    interrupted(1)  # the whole way is kept, for a Program that could not be saved
    assert torch.equal(run(cut)(UNSEEN), whole(UNSEEN))


@pytest.mark.slow
def test_other_settings_begin_anew(tmp_path: Path, interrupted, monkeypatch: pytest.MonkeyPatch):
    steps(monkeypatch, 25)
    _, start = rounded(weight_bits=3, end_bits=3)
    path = tmp_path / "cut"
    distil(start, start, DATA, 0, path)
    interrupted(1)
    with pytest.raises(KeyboardInterrupt, match="step 0 of 25"):
        distil(start, start, DATA, 1, path)


def test_items_of_other_sizes_are_left_out():
    (items,) = _items([images(5), torch.zeros(3, 3, 4, 4), images(2, 1)])
    assert torch.equal(items, torch.cat([images(5), images(2, 1)]))


def test_inputs_of_an_item_are_mixed_alike():
    generator = torch.Generator().manual_seed(0)
    items = torch.tensor([[0.0, 0.0], [10.0, 20.0], [100.0, 0.0]])
    one, other = _mixed([items, items.reshape(3, 1, 2) * 3], generator)
    torch.testing.assert_close(other.flatten(1), one * 3)


def test_the_mean_over_items_counts_each_once():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0])
    assert module_of._mean_loss(lambda batch: batch[0].mean(), [values], 2) == pytest.approx(19 / 5)


ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))


@functools.cache
def small(bits: int = 3) -> Program:
    """Two linear layers, of 72 multiply-accumulates, rounded to nearest."""
    model = randomized(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    chosen = options(weight_bits=bits, end_bits=bits)
    return round_to_nearest(capture(model, ROWS[:2]), ADDS_INSIDE, [ROWS], chosen)


@pytest.fixture
def learned_from(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The items of each gradient step."""
    seen, mixed = [], module_of._mixed

    def noting(inputs: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        seen.append(inputs[0])
        return mixed(inputs, generator)

    monkeypatch.setattr(module_of, "_mixed", noting)
    return seen


def test_what_is_held_out_is_not_learned_from(learned_from: list[Tensor], monkeypatch: pytest.MonkeyPatch):
    steps(monkeypatch, 6)
    distil(small(), small(), [ROWS])
    numbers = [(row == ROWS).all(1).nonzero().item() for rows in learned_from for row in rows]
    assert {number % 8 for number in numbers} == {*range(7)}
    assert set(numbers) == {number for number in range(40) if number % 8 != 7}
    assert [len(rows) for rows in learned_from] == [32] * 6  # of 35


@pytest.mark.parametrize(
    ("work", "expected"), [(0, 3), (4 * 72 * 32, 4), (5 * 72 * 32 - 1, 4), (9 * 72 * 32, 5)]
)
@pytest.mark.parametrize(("bits", "lessons"), [(3, "FEW_BITS"), (4, "MANY_BITS")])
def test_so_many_steps_are_taken(
    work: int,
    expected: int,
    bits: int,
    lessons: str,
    learned_from: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
):
    changed = dataclasses.replace(getattr(module_of, lessons), least=3, most=5, work=work)
    monkeypatch.setattr(module_of, lessons, changed)
    start = small(bits)
    distil(start, start, [ROWS])
    assert len(learned_from) == expected


@pytest.mark.parametrize(("work", "few", "many"), [(1, 2000, 250), (1 << 50, 200, 50), (1 << 31, 200, 50)])
def test_large_networks_are_taught_in_fewer_steps(
    work: int, few: int, many: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()
    monkeypatch.setattr(module_of, "work", lambda _: work)

    class ToldError(Exception):
        pass

    def told(_: object, steps: int) -> None:
        raise ToldError(steps)

    monkeypatch.setattr(module_of, "Descent", told)
    for bits, expected in ((3, few), (4, many)):
        with pytest.raises(ToldError, match=f"^{expected}$"):
            distil(small(bits), small(bits), [ROWS])


def test_weights_that_layers_share_are_taught_at_four_bits_too():
    def lessons(bits: int, *layers: nn.Module) -> object:
        program = capture(randomized(nn.Sequential(*layers)), ROWS)
        return _lessons(round_to_nearest(program, ADDS_INSIDE, [ROWS], options(weight_bits=bits)))

    layer, other = (nn.Linear(ROWS.shape[1], ROWS.shape[1]) for _ in range(2))
    assert lessons(4, layer, nn.ReLU(), layer) is module_of.SHARED
    assert lessons(4, layer, nn.ReLU(), other) is module_of.MANY_BITS
    assert lessons(8, layer, nn.ReLU(), layer) is module_of.MANY_BITS
    assert lessons(3, layer, nn.ReLU(), layer) is module_of.FEW_BITS
    assert module_of.SHARED.weights


def test_weights_of_few_bits_alone_are_taught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "WORTH", 1e9)  # any state is better than the start
    for bits, lessons in ((3, "FEW_BITS"), (4, "MANY_BITS")):
        changed = dataclasses.replace(getattr(module_of, lessons), least=4, most=4)
        monkeypatch.setattr(module_of, lessons, changed)
        start = small(bits)
        taught = distil(start, start, [ROWS])
        before, after = (dict(of.module.named_parameters()) for of in (start, taught))
        assert not torch.equal(before["0.bias"], after["0.bias"])
        if bits == 4:
            torch.testing.assert_close(before["0.weight"], after["0.weight"])
        else:
            assert (before["0.weight"] - after["0.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("errors", "is_taught"),
    [
        ([1.0, 0.96, 0.951], False),
        ([1.0, 0.94, 2.0], True),
        ([1.0, 2.0, 0.5], True),
        ([1.0, float("nan"), 3.0], False),
    ],
)
def test_the_start_stays_unless_another_state_is_worth_it(
    errors: list[float], is_taught: bool, monkeypatch: pytest.MonkeyPatch
):
    steps(monkeypatch, 4)
    monkeypatch.setattr(module_of, "JUDGED", 2)
    told = iter(errors)
    monkeypatch.setattr(module_of, "_mean_loss", lambda *_: next(told))
    start = small()
    taught = distil(start, start, [ROWS])
    assert (not torch.equal(taught(ROWS), start(ROWS))) == is_taught
    assert not list(told)


@pytest.mark.parametrize(
    ("bits", "errors", "taken"),
    [
        (4, [1.0, 1.01, 2.0, 2.0], 6),  # more than half of the steps, 10, since the start
        (4, [1.0, 0.96, 2.0, 2.0, 2.0], 8),  # since the second, though it is not worth taking
        (4, [1.0, 0.9, 2.0, 2.0, 2.0], 8),  # since the second
        (4, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], 10),
        (3, [1.0, 2.0, 2.0, 2.0, 2.0, 2.0], 10),
    ],
)
def test_what_gains_nothing_ends_early(
    bits: int,
    errors: list[float],
    taken: int,
    learned_from: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
):
    for name in ("FEW_BITS", "MANY_BITS"):
        changed = dataclasses.replace(getattr(module_of, name), least=10, most=10)
        monkeypatch.setattr(module_of, name, changed)
    monkeypatch.setattr(module_of, "JUDGED", 2)
    told = iter(errors)
    monkeypatch.setattr(module_of, "_mean_loss", lambda *_: next(told))
    distil(small(bits), small(bits), [ROWS])
    assert len(learned_from) == taken
    assert not list(told)


def test_items_that_give_no_number_are_told(monkeypatch: pytest.MonkeyPatch):
    rows = ROWS.clone()
    rows[7] = float("nan")
    steps(monkeypatch, 1)
    start = small()
    with pytest.raises(InputError, match="NaN or infinite on the calibration data"):
        distil(start, start, [rows])


def test_an_interruption_between_two_saves_changes_nothing(
    tmp_path: Path, interrupted, monkeypatch: pytest.MonkeyPatch
):
    steps(monkeypatch, 6)
    monkeypatch.setattr(module_of, "JUDGED", 2)
    monkeypatch.setattr(module_of, "WORTH", 1e9)  # any state is better than the start
    start = small()
    whole = distil(start, start, [ROWS])
    interrupted(4)
    with pytest.raises(KeyboardInterrupt, match="distilling is saved at step 2 of 6"):
        distil(start, start, [ROWS], 0, tmp_path / "cut")
    interrupted(5)  # four are left
    resumed = distil(start, start, [ROWS], 0, tmp_path / "cut")
    assert torch.equal(resumed(ROWS), whole(ROWS))
    assert not torch.equal(whole(ROWS), start(ROWS))
    interrupted(1)
    with pytest.raises(KeyboardInterrupt, match="step 0 of 6"):  # of another seed
        distil(start, start, [ROWS], 1, tmp_path / "cut")
