"""AdaRound against rounding to nearest, on held-out data; what it keeps, repeats and leaves alone."""

import dataclasses
import functools

import pytest
import torch
from networks import ADDS_INSIDE, Function, images, options, randomized, residual, round_to_nearest, sqnr
from torch import Tensor, nn
from torch.fx import GraphModule

from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Simulation, quantizers
from zeropoint.passes import adaround as module_of
from zeropoint.passes import distil as distil_module
from zeropoint.passes.adaround import _annealed, _blocks, _Soft, adaround
from zeropoint.passes.blocks import stretch, without_quantizers
from zeropoint.passes.rows import Rows
from zeropoint.quantization import quantize


def smooth(seed: int) -> Tensor:
    """Images whose neighbouring pixels are alike: of what has nothing in common nothing is to be learned."""
    return nn.functional.avg_pool2d(images(32, seed), 3, stride=1, padding=1) * 3


DATA = [smooth(seed) for seed in range(8)]
UNSEEN = torch.cat([smooth(seed) for seed in range(90, 98)])


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of, "STEPS", 60)
    monkeypatch.setattr(module_of, "LEAST", 1)


def rounded(bits: int, model: nn.Module | None = None, data: list[Tensor] = DATA) -> tuple[Program, Program]:
    program = residual() if model is None else capture(randomized(model), data[0][:2])
    chosen = options(weight_bits=bits, end_bits=bits)
    return program, round_to_nearest(program, ADDS_INSIDE, data, chosen)


def test_beta_falls_behind_the_warm_up():
    assert _annealed(0.19) is None
    assert [_annealed(done) for done in (0.2, 0.6, 1.0)] == pytest.approx([20.0, 11.0, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "gain"), [(4, 0.3), (3, 0.8)])
def test_nearer_to_float_on_items_not_seen(bits: int, gain: float):
    program, start = rounded(bits)
    before = {name: value.clone() for name, value in start.module.state_dict().items()}
    learned = adaround(start, start, DATA)
    expected = program(UNSEEN)
    assert sqnr(expected, learned(UNSEEN)) > sqnr(expected, start(UNSEEN)) + gain
    for name, value in start.module.state_dict().items():
        assert torch.equal(value, before[name])
    moved = 0  # weights are on their grids, and move a step at most
    for old, new in zip(quantizers(start.module), quantizers(learned.module), strict=True):
        assert old.scheme == new.scheme
        if new.is_weight:
            assert torch.equal(old.scale, new.scale)
            stored = learned.module.get_parameter(str(new.source.target)).detach()
            a, b = old.integers(start.module).int(), new.integers(learned.module).int()
            shape = [-1] + [1] * (stored.dim() - 1)
            torch.testing.assert_close(stored, b * new.scale.reshape(shape))
            assert (a - b).abs().max() <= 1
            moved += int((a != b).sum())
    assert moved


@pytest.mark.slow
def test_files_give_what_memory_gives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "STEPS", 5)
    _, start = rounded(2)
    inside = adaround(start, start, DATA)(UNSEEN)
    monkeypatch.setattr(module_of, "MEMORY", 0)
    assert torch.equal(adaround(start, start, DATA)(UNSEEN), inside)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "STEPS", 20)
    _, start = rounded(3)
    one, two, other = (adaround(start, start, DATA, seed)(UNSEEN) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_never_worse_on_what_is_held_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "BIAS_RATE", 1e3)  # which ruins the biases
    monkeypatch.setattr(module_of, "STEPS", 5)
    _, start = rounded(4)
    assert torch.equal(adaround(start, start, DATA)(UNSEEN), start(UNSEEN))


def test_too_few_items_to_hold_any_out_leave_the_program_as_it_is():
    _, start = rounded(3)
    assert adaround(start, start, [images(7)]) is start


def test_items_are_those_before_another_shape_and_limited(monkeypatch: pytest.MonkeyPatch):
    (rows,) = module_of._items([images(5), images(3), torch.zeros(2, 3, 4, 4), images(9)])
    assert torch.equal(rows[torch.arange(len(rows))], torch.cat([images(5), images(3)]))
    monkeypatch.setattr(module_of, "ITEMS", 24)
    (rows,) = module_of._items(images(16) for _ in iter(int, 1))
    assert len(rows) == 24


class Grouped(nn.Module):
    """Shortcuts around grouped convolutions, and a linear layer; (N, 3, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=g), nn.ReLU(), nn.Conv2d(8, 8, 1))
            for g in (2, 8)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def test_blocks_lie_between_shortcuts():
    _, start = rounded(3, Grouped())
    found = _blocks(start.module, without_quantizers(start))
    assert found == [(None, ["relu"]), ("relu", ["relu_2"]), ("relu_2", ["mean"]), ("mean", ["linear"])]


def test_outputs_that_are_no_floats_of_each_item_leave_no_block():
    def function(parts: nn.ModuleList, x: Tensor) -> tuple[Tensor, ...]:
        y = parts[0](x)
        return y.exp(), y.argmax(1), y.sum(0)

    data = [torch.randn(16, 6, generator=torch.Generator().manual_seed(0))]
    _, start = rounded(3, Function(function, nn.Linear(6, 4)), data)
    assert _blocks(start.module, without_quantizers(start)) == [(None, ["exp"])]


@pytest.mark.slow
def test_shortcuts_groups_and_linear_layers():
    program, start = rounded(3, Grouped())
    expected = program(UNSEEN)
    learned = adaround(start, start, DATA)
    assert sqnr(expected, learned(UNSEEN)) > sqnr(expected, start(UNSEEN)) + 1.0


def test_tokens():
    model = Function(
        lambda parts, x: parts[2](torch.relu(parts[1](parts[0](x))).mean(1)),
        *(nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(16, 5)),
    )
    data = [torch.randint(20, (16, 6), generator=torch.Generator().manual_seed(s)) for s in range(5)]
    program, start = rounded(3, model, data[:4])
    expected = program(data[4])
    learned = adaround(start, start, data[:4])
    assert sqnr(expected, learned(data[4])) > sqnr(expected, start(data[4])) + 1.0


def test_a_weight_of_two_blocks_stays():
    def twice(parts: nn.ModuleList, x: Tensor) -> Tensor:
        return parts[0](torch.relu(parts[0](x)))

    data = [torch.randn(16, 6, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    _, start = rounded(3, Function(twice, nn.Linear(6, 6)), data)
    learned = adaround(start, start, data)
    for name, value in start.module.named_parameters():
        assert torch.equal(value, learned.module.get_parameter(name))


ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))


@functools.cache
def small(bits: int = 3) -> Program:
    """Two linear layers in two blocks, the first one's outputs moved before they are read."""
    model = Function(
        lambda parts, x: parts[1](torch.relu(parts[0](x)).unflatten(1, (2, 4)).transpose(1, 2).flatten(1)),
        *(nn.Linear(6, 8), nn.Linear(8, 3)),
    )
    return rounded(bits, model, [ROWS])[1]


def whole(start: Program) -> tuple[_Soft, GraphModule]:
    """What is learned where the whole network is one block, and that block."""
    teacher = without_quantizers(start)
    block = stretch(start.module, None, ["linear_1"])
    return _Soft(block, start.module, teacher, torch.Generator().manual_seed(0)), block


def test_the_same_seed_gives_the_same_and_is_0_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "STEPS", 4)
    start = small()
    one, two, other = (adaround(start, start, [ROWS], *seed)(ROWS) for seed in ((), (0,), (1,)))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one, start(ROWS))
    monkeypatch.setattr(module_of, "MEMORY", 0)
    assert torch.equal(adaround(start, start, [ROWS])(ROWS), one)  # by files


def test_what_was_learned_of_small_layers_is_on_their_grids(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "STEPS", 80)
    start = small()
    learned = adaround(start, start, [ROWS])
    expected = without_quantizers(start)(ROWS).detach()
    assert sqnr(expected, learned(ROWS)) > sqnr(expected, start(ROWS)) + 0.5
    moved = 0
    for old, new in zip(quantizers(start.module), quantizers(learned.module), strict=True):
        if new.is_weight:
            assert torch.equal(old.scale, new.scale)
            steps = learned.module.get_parameter(str(new.source.target)).detach() / new.scale.reshape(-1, 1)
            assert (steps - steps.round()).abs().max() < 1e-4
            change = (new.integers(learned.module).int() - old.integers(start.module).int()).abs()
            assert change.max() <= 1
            moved += int(change.sum())
        else:
            assert float(new.scale) != float(old.scale)
    assert moved


@pytest.mark.parametrize(("work", "expected"), [(0, 3), (72 * 32 * 4, 4), (72 * 32 * 9, 5)])
def test_so_many_steps_are_taken_for_every_block(work: int, expected: int, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"LEAST": 3, "STEPS": 5, "WORK": work}.items():
        monkeypatch.setattr(module_of, name, value)
    taken = []
    monkeypatch.setattr(module_of, "_learn", lambda *arguments: taken.append(arguments[3]))
    start = small()
    adaround(start, start, [ROWS])
    assert taken == [expected] * 2


def test_what_is_learned_and_at_which_rates():
    start = small()
    soft, _ = whole(start)
    assert {name for name in soft.biases} == {
        node.name for node in start.module.graph.nodes if str(node.target).endswith("bias")
    }
    assert len(soft.weights) == 2
    assert len(soft.activations) == 3
    scales = {id(scale): float(scale.detach()) for _, scale in soft.activations.values()}
    assert len(scales) == 2  # what is moved is on one grid
    vs, *others = soft.parameter_groups(12)
    assert vs["lr"] == pytest.approx(2 * 3 / 12)
    assert [v.shape for v in vs["params"]] == [(8, 6), (3, 8)]
    sizes = [float(bias.detach().abs().mean()) for bias in soft.biases.values()] + list(scales.values())
    assert [group["lr"] for group in others] == pytest.approx([0.003 * size for size in sizes])


def test_half_of_the_activations_stay_float_by_chance():
    soft, _ = whole(small())
    (output,) = soft.run(ROWS)
    (again,) = soft.run(ROWS)
    assert not torch.equal(output, again)
    name, (quantizer, scale) = next(iter(soft.activations.items()))
    soft.env = {quantizer.source: torch.full((100, 100), float(scale.detach()) / 3)}
    value = soft.run_node(quantizer.node)
    assert value.unique().tolist() == [0.0, pytest.approx(float(scale.detach()) / 3)]
    assert float((value == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert name == quantizer.node.name


def test_a_lesson_is_judged_by_all_that_is_held_out():
    """Errors of 4, 1 and 0 relative to the squares, of two batches of two and one."""

    class Once(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1

    block = stretch(capture(Once(), torch.ones(2, 1)).module, None, ["mul"])
    inputs, wanted = (Rows(5, torch.ones(1, 1), spilled=False) for _ in range(2))
    inputs.append(torch.tensor([[3.0], [100.0], [2.0], [100.0], [7.0]]))
    wanted.append(torch.tensor([[1.0], [1.0], [1.0], [1.0], [7.0]]))
    held = torch.tensor([True, False, True, False, True])
    lesson = module_of._Lesson([inputs], [wanted], held, 2)
    run = Simulation(block)
    # Of the first two together (4 + 1) / 2, which count twice, and 0 of the last.
    assert lesson.held_out_error(run) == pytest.approx(2 * 2.5 / 3)
    assert float(lesson.error(run, torch.tensor([1]))) == pytest.approx(99.0**2)


@pytest.mark.parametrize(("memory", "is_spilled"), [(64 * 4 * 4 * 4, False), (64 * 4 * 4 * 4 - 1, True)])
def test_rows_go_to_a_file_where_four_times_their_size_is_too_much(
    memory: int, is_spilled: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module_of, "MEMORY", memory)
    rows = module_of._rows(64, torch.ones(7, 2, 2))
    assert (rows._file is not None) == is_spilled
    assert rows.shape == (64, 2, 2)


def test_outputs_are_those_of_all_items_at_once():
    start = small()
    _, block = whole(start)
    rows = Rows(40, ROWS, spilled=False)
    rows.append(ROWS)
    (outputs,) = module_of._outputs(block, [rows], 7)
    torch.testing.assert_close(outputs[torch.arange(40)], start(ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "static-best", "weight-only"])
def test_as_an_option(method: str, monkeypatch: pytest.MonkeyPatch):
    few = dataclasses.replace(distil_module.FEW_BITS, least=20, most=20)
    monkeypatch.setattr(distil_module, "FEW_BITS", few)
    program = residual()
    chosen = {"weight_bits": 3, "end_bits": 3}
    both = [
        quantize(program, method, calibration=DATA, target=ADDS_INSIDE, options=options(rounding=r, **chosen))
        for r in ("nearest", "adaround")
    ]
    expected, (first, second) = program(UNSEEN), (one(UNSEEN) for one in both)
    assert not torch.equal(first, second)
    # Distillation, the second half of static-best, all but closes the gap.
    assert sqnr(expected, second) > sqnr(expected, first) - (0.3 if method == "static-best" else 0.0)
