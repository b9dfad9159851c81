"""GPTQ against least squares in NumPy, exhaustive rounding, and the float network it has to stay near."""

import functools
import importlib
import itertools

import numpy as np
import pytest
import torch
from networks import ADDS_INSIDE, Function, options, randomized, round_to_nearest
from torch import Tensor, nn
from torch.fx import Interpreter

import zeropoint as zp
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import weighted
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, quantizers
from zeropoint.numerics.scheme import Scheme
from zeropoint.passes import gptq as module_of
from zeropoint.passes import stepping
from zeropoint.passes.equalize import Equalized
from zeropoint.passes.fold import fold_affine
from zeropoint.passes.gptq import (
    RIDGES,
    _best_strength,
    _refitted,
    _ridge,
    _rounded,
    gptq,
)
from zeropoint.passes.moments import Moments, moments_of
from zeropoint.passes.stepping import _live_bytes, batches_of


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantizer(scale: Tensor, bits: int = 2, zero_point: int = 0) -> Quantizer:
    scheme = Scheme(bits, granularity="per-channel")
    points = torch.full(scale.shape, zero_point, dtype=torch.int32)
    return Quantizer(None, None, scale, points, scheme, 0)  # type: ignore[arg-type]  # of no graph


def test_refitting_is_least_squares():
    x, y, weight = (
        seeded(*shape, seed=seed).double() for seed, shape in enumerate([(5, 40), (5, 40), (3, 5)])
    )
    moments = Moments((x @ x.T).unsqueeze(0), (y @ x.T).unsqueeze(0))
    refitted = _refitted(weight.unsqueeze(0), moments, torch.zeros(1, 5, dtype=torch.float64))[0]
    expected = np.linalg.lstsq(x.T.numpy(), (weight @ y).T.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(refitted.numpy(), expected, rtol=1e-9)


def test_refitting_keeps_a_weight_that_is_held():
    x, y, weight = (
        seeded(*shape, seed=seed).double() for seed, shape in enumerate([(5, 40), (5, 40), (3, 5)])
    )
    moments = Moments((x @ x.T).unsqueeze(0), (y @ x.T).unsqueeze(0))
    held = _refitted(weight.unsqueeze(0), moments, torch.full((1, 5), 1e12, dtype=torch.float64))[0]
    torch.testing.assert_close(held, weight, rtol=1e-6, atol=1e-6)


def test_refitting_by_sums_that_rounding_left_indefinite():
    vectors, _ = np.linalg.qr(seeded(4, 4).double().numpy())
    indefinite = torch.tensor(vectors @ np.diag([5.0, 3.0, 1.0, -1e-3]) @ vectors.T)
    weight, yx = seeded(2, 4, seed=1).double(), seeded(4, 4, seed=2).double()
    moments = Moments(torch.stack([indefinite, torch.eye(4).double()]), torch.stack([yx, yx]))
    refitted = _refitted(weight.expand(2, 2, 4), moments, torch.zeros(2, 4, dtype=torch.float64))
    expected = weight.numpy() @ yx.numpy() @ np.linalg.inv(indefinite.numpy())
    np.testing.assert_allclose(refitted[0].numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(refitted[1].numpy(), (weight @ yx).numpy(), rtol=1e-9)


def test_rounding_without_correlation_is_rounding_to_nearest():
    weight, scale = seeded(2, 3, 200).double(), torch.rand(6) + 0.2
    rounded = _rounded(
        weight.clone(), torch.eye(200, dtype=torch.float64).repeat(2, 1, 1), quantizer(scale), False
    )
    steps = scale.double().reshape(2, 3, 1)
    torch.testing.assert_close(rounded, (weight / steps).round().clamp(-2, 1) * steps)


def test_rounding_is_between_nearest_and_the_best_of_all():
    best, found, nearest = [], [], []
    for seed in range(8):
        mixing = seeded(6, 6, seed=seed).double()
        hessian = mixing @ mixing.T + 0.1 * torch.eye(6, dtype=torch.float64)
        weight = seeded(6, seed=seed + 9).double()

        def error(rounded: Tensor, weight: Tensor = weight, hessian: Tensor = hessian) -> float:
            return float((rounded - weight) @ hessian @ (rounded - weight))

        grid = (torch.tensor(levels) * 0.75 for levels in itertools.product(range(-2, 2), repeat=6))
        best.append(min(error(levels.double()) for levels in grid))
        nearest.append(error((weight / 0.75).round().clamp(-2, 1) * 0.75))
        by_input = _rounded(weight.reshape(1, 1, 6), hessian[None], quantizer(torch.tensor([0.75])), False)
        found.append(error(by_input[0, 0]))
        assert best[-1] <= found[-1] * (1 + 1e-9)
    assert sum(found) < 0.8 * sum(nearest)


def test_the_unrounded_input_makes_up_for_the_others():
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    rounded = _rounded(
        torch.tensor([[[0.4, 1.0]]]).double(), hessian, quantizer(torch.ones(1)), keeps_last=True
    )
    # 0.4 becomes 0; the second weight then minimises (0.4, d) H (0.4, d)ᵀ: d = 0.4 * 1 / 1.
    torch.testing.assert_close(rounded, torch.tensor([[[0.0, 1.4]]]).double())


class Mixed(nn.Module):
    """Every kind of layer that is refitted, and a transposed convolution, which only gets its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.along = nn.Conv1d(6, 6, 5, padding=1)
        self.head = nn.Linear(6, 10)
        self.factor = nn.Parameter(torch.randn(10, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.first(x))))
        x = torch.relu(self.up(self.grouped(x)))
        x = torch.relu(self.along(x.flatten(2)))
        return torch.relu(self.head(x.mean(2))) @ self.factor


@functools.cache
def captured() -> Program:
    return fold_affine(capture(randomized(Mixed()), seeded(2, 3, 10, 10)))


def mixed(bits: int) -> tuple[Program, Program, list[Tensor]]:
    data = [seeded(12, 3, 10, 10, seed=seed) for seed in range(8)]
    chosen = options(weight_bits=bits, ranges="minmax")
    return captured(), round_to_nearest(captured(), ADDS_INSIDE, data, chosen), data


def sqnr(program: Program, quantized: Program, inputs: Tensor) -> float:
    expected = program(inputs)
    return float(10 * torch.log10((expected**2).sum() / ((quantized(inputs) - expected) ** 2).sum()))


@pytest.mark.parametrize(("bits", "gain"), [(8, -0.2), (4, 3.0), (3, 3.0)])
def test_nearer_to_float_on_data_not_seen(bits: int, gain: float):
    program, plain, data = mixed(bits)
    refined, unseen = gptq(plain, data), seeded(200, 3, 10, 10, seed=99)
    assert sqnr(program, refined, unseen) > sqnr(program, plain, unseen) + gain


@pytest.mark.slow
def test_weights_are_on_their_grids_and_the_given_program_stays():
    _, plain, data = mixed(4)
    before = {name: value.clone() for name, value in plain.module.state_dict().items()}
    refined = gptq(plain, data)
    for name, value in plain.module.state_dict().items():
        assert torch.equal(value, before[name])
    moved = 0
    for old, new in zip(quantizers(plain.module), quantizers(refined.module), strict=True):
        assert torch.equal(old.scale, new.scale)
        assert old.scheme == new.scheme
        if new.is_weight:
            moved += not torch.equal(old.integers(plain.module), new.integers(refined.module))
    assert moved >= 4


class Means(Interpreter):
    """The mean of every channel of every layer."""

    def run_node(self, n):
        value = super().run_node(n)
        if n.op == "call_function" and str(n.target).startswith(("aten.conv", "aten.linear")):
            axes = [
                axis
                for axis in range(value.dim())
                if axis != (1 if "conv" in str(n.target) else value.dim() - 1)
            ]
            self.means[n.name] = value.mean(axes)
        return value


def means(program: Program, data: Tensor) -> dict[str, Tensor]:
    run = Means(program.module)
    run.means = {}
    with torch.no_grad():
        run.run(data)
    return run.means


def test_biases_alone_make_the_means_those_of_the_float_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        importlib.import_module("zeropoint.methods.static"),
        "equalize",
        lambda of, *_, **__: Equalized(of, 1.0),
    )
    program, plain, data = mixed(3)
    everything = torch.cat(data)
    corrected = gptq(plain, data, largest=0)
    expected, found = means(program, everything), means(corrected, everything)
    for old, new in zip(quantizers(plain.module), quantizers(corrected.module), strict=True):
        assert not new.is_weight or torch.equal(old.integers(plain.module), new.integers(corrected.module))
    assert len(found) == 7
    for name, mean in found.items():
        if name not in ("conv2d_2", "matmul"):  # they have no bias
            torch.testing.assert_close(mean, expected[name], rtol=1e-3, atol=1e-4)


class Twice(nn.Module):
    """A layer used twice, and one whose weight or bias differ where ``other`` says so."""

    def __init__(self, other: str = "") -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.bias, self.other = nn.Parameter(torch.empty(6)), other

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.layer(x))
        bias = self.bias if self.other == "bias" else self.layer.bias
        x = nn.functional.linear(x, self.layer.weight, None if self.other == "no bias" else bias)
        return self.last(torch.relu(x)) + (
            (self.layer.weight * x.mean()).sum() if self.other == "read" else 0
        )


def of_twice(other: str = "", bits: int = 4) -> tuple[Program, Program, list[Tensor]]:
    data = [seeded(40, 6, seed=seed) for seed in range(3)]
    program = capture(randomized(Twice(other)), data[0])
    return (
        program,
        round_to_nearest(program, ADDS_INSIDE, data, options(weight_bits=bits, end_bits=bits)),
        data,
    )


def test_a_weight_of_two_layers_is_fitted_to_the_float_inputs_of_both():
    program, plain, data = of_twice()
    fitted = gptq(plain, data)
    state = dict(program.module.named_parameters())
    weight, bias = state["layer.weight"].detach().double(), state["layer.bias"].detach().double()
    first = torch.cat(data).double()
    rows = torch.cat([first, torch.relu(first @ weight.T + bias)])
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    squares = rows.T @ rows
    ridge = 0.01 * squares.diagonal()[:-1].mean()  # DAMPING; the bias is held by next to nothing
    damped = squares + torch.diag(torch.tensor([*[float(ridge)] * 6, float(ridge) * 1e-8]).double())
    (of_weight,) = [one for one in quantizers(plain.module) if one.name == "layer.weight"]
    whole = torch.cat([weight, bias[:, None]], 1)
    expected = _rounded(whole[None], damped[None], of_weight, True)[0]
    found = dict(fitted.module.named_parameters())
    torch.testing.assert_close(found["layer.weight"].double(), expected[:, :6], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["layer.bias"].double(), expected[:, 6], rtol=1e-3, atol=1e-3)


def test_layers_behind_a_shared_weight_make_up_for_its_error():
    program, plain, data = of_twice(bits=2)
    everything = torch.cat(data)
    expected = program(everything).mean(0)
    assert (plain(everything).mean(0) - expected).abs().max() > 0.03
    torch.testing.assert_close(gptq(plain, data)(everything).mean(0), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("other", ["bias", "no bias", "read"])
def test_a_weight_that_is_used_otherwise_stays(other: str):
    _, plain, data = of_twice(other)
    before, after = (dict(of.module.named_parameters())["layer.weight"] for of in (plain, gptq(plain, data)))
    assert torch.equal(before, after)


def test_shared_weights_are_fitted_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch):
    class TwoTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = self.two(torch.relu(self.one(x)))
            return x

    data = [seeded(40, 6, seed=seed) for seed in range(3)]
    plain = round_to_nearest(
        capture(randomized(TwoTwice()), data[0]), ADDS_INSIDE, data, options(weight_bits=4)
    )
    at_once = gptq(plain, data).module.state_dict()
    monkeypatch.setattr(module_of, "MEMORY", 1)
    in_parts = gptq(plain, data).module.state_dict()
    assert not torch.equal(at_once["one.weight"], plain.module.state_dict()["one.weight"])
    for name in ("one.weight", "two.weight", "one.bias", "two.bias"):
        torch.testing.assert_close(in_parts[name], at_once[name])


def test_padding_does_not_count():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(9, 6), nn.Linear(6, 4)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.layer(self.table(input_ids)) * attention_mask[:, :, None]

    mask = (torch.arange(8) < torch.tensor([[3], [8], [5], [6]])).long()
    ids = torch.randint(1, 9, (4, 8)) * mask
    program = capture(randomized(Masked()), {"input_ids": ids, "attention_mask": mask})
    batches = [(ids, mask)]
    plain = round_to_nearest(program, ADDS_INSIDE, batches, options(weight_bits=4, end_bits=4))
    (layer,) = [node for node in plain.module.graph.nodes if weighted(node)]
    values = program.module.table.weight.detach()[ids]
    env = {layer.args[0]: values}
    found, _ = moments_of(layer, [env], [env], [mask == 1], 1 << 20)
    rows = values[mask == 1].double()
    expected = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    torch.testing.assert_close(found.xx[0], expected.T @ expected, rtol=1e-5, atol=1e-5)
    everything, _ = moments_of(layer, [env], [env], [None], 1 << 20)
    assert everything.xx[0, -1, -1] == 32


def test_dead_inputs_and_a_single_item_give_no_nan():
    data = [torch.zeros(1, 3, 10, 10)]
    plain = round_to_nearest(capture(randomized(Mixed()), data[0]), ADDS_INSIDE, data, options(weight_bits=4))
    assert gptq(plain, data)(seeded(2, 3, 10, 10)).isfinite().all()


def test_no_more_data_is_read_than_fits(monkeypatch: pytest.MonkeyPatch):
    _, plain, data = mixed(8)
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield data[number % len(data)]

    monkeypatch.setattr(stepping, "MEMORY", 1 << 20)
    batches = batches_of(plain, endless())
    # An item of 3 x 10 x 10 becomes 8 x 5 x 5, and then 6 x 12 x 12: of the largest, two are held at a time.
    items = sum(len(inputs[0]) for inputs in batches)
    assert 20 < items < 200
    assert len(read) < 20


def by_elimination(
    weight: np.ndarray, hessian: np.ndarray, scale: np.ndarray, ends: tuple[int, int]
) -> np.ndarray:
    """One weight after another is rounded and taken out of the inverse (Hassibi and Stork 1993, eq. 5)."""
    rounded = np.empty_like(weight)
    order = np.argsort(-hessian.diagonal(), kind="stable")
    for row in range(len(weight)):
        left, inverse = weight[row].copy(), np.linalg.inv(hessian)
        for i in order:
            rounded[row, i] = np.clip(np.rint(left[i] / scale[row, i]), *ends) * scale[row, i]
            left -= (left[i] - rounded[row, i]) / inverse[i, i] * inverse[:, i]
            inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
            inverse[i, i] = 1.0  # it is no longer looked at
    return rounded


@pytest.mark.parametrize(
    "size", [150, 50, 1], ids=["a scale for each output", "for groups", "for each weight"]
)
def test_rounding_is_elimination_one_by_one(size: int):
    """More inputs than are rounded at a time, of two groups of a convolution."""
    inputs, outputs = 150, 2
    mixing = seeded(2, 400, inputs).double()
    hessian = mixing.mT @ mixing + 100 * torch.diag(torch.linspace(0.1, 9, inputs).flip(0)).double()
    weight = seeded(2, outputs, inputs, seed=1).double()
    scale = torch.rand(2 * outputs * inputs // size, generator=torch.Generator().manual_seed(2)) + 0.2
    found = _rounded(weight.clone(), hessian, quantizer(scale, 3), False)
    by_input = scale.double().reshape(2, outputs, -1).repeat_interleave(size, 2)
    for group in range(2):
        expected = by_elimination(*(part[group].numpy() for part in (weight, hessian, by_input)), (-4, 3))
        np.testing.assert_allclose(found[group].numpy(), expected, atol=1e-6)


def test_a_zero_point_moves_the_levels():
    levels = torch.tensor([[[-9.0, -1.4, 2.2, 9.0]]]).double()
    rounded = _rounded(
        levels.clone() * 0.5, torch.eye(4).double()[None], quantizer(torch.tensor([0.5]), 3, 2), False
    )
    assert (rounded / 0.5).flatten().tolist() == [-6, -1, 1, 1]  # -4 - 2 to 3 - 2


def test_of_a_single_batch_weights_are_held_as_they_are():
    x, weight = seeded(40, 5).double(), seeded(1, 3, 5, seed=1).double()
    fold = Moments((x.T @ x)[None], (x.T @ x)[None])
    assert _best_strength(weight, (fold, fold), False) == RIDGES[-1] == 100.0


def test_the_ridge_is_the_one_that_holds_on_the_other_half():
    """Where y is 2x throughout nothing has to be held; where halves have nothing in common all has to."""
    one, two = (seeded(60, 5, seed=seed).double() for seed in (1, 2))
    weight = seeded(1, 3, 5, seed=3).double()
    alike = tuple(Moments((x.T @ x)[None], (2 * x.T @ x)[None]) for x in (one, two))
    assert _best_strength(weight, alike, False) == RIDGES[0]
    others = [seeded(60, 5, seed=seed).double() for seed in (4, 5)]
    apart = tuple(
        Moments((x.T @ x)[None], ((x + 3 * noise).T @ x)[None])
        for x, noise in zip((one, two), others, strict=True)
    )
    assert _best_strength(weight, apart, False) > RIDGES[1]


def test_the_ridge_of_many_groups_is_chosen_by_some(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "JUDGES", 2)
    weight = seeded(5, 1, 3, seed=3).double()  # every third group is looked at
    x, y, noise = (seeded(5, 3, 40, seed=seed).double() for seed in (1, 2, 4))
    counts = torch.tensor([True, False, False, True, False])[:, None, None]
    wanted = torch.where(counts, 2 * x, noise)  # nothing that holds on the other half
    other = torch.where(counts, 2 * y, -noise)
    folds = Moments(x @ x.mT, wanted @ x.mT), Moments(y @ y.mT, other @ y.mT)
    assert _best_strength(weight, folds, False) == RIDGES[0]


def test_a_ridge_is_of_the_mean_square_of_inputs_and_holds_the_bias_by_next_to_nothing():
    x = torch.tensor([[3.0, 0.0, 1.0], [1.0, 2.0, 1.0]]).double()
    moments = Moments((x.T @ x)[None], (x.T @ x)[None])  # squares of 10, 4 and, of ones, 2
    assert _ridge(moments, 0.5, False)[0].tolist() == pytest.approx([0.5 * 16 / 3] * 3)
    assert _ridge(moments, 0.5, True)[0].tolist() == pytest.approx([3.5, 3.5, 7e-10])
    nothing = Moments(torch.zeros(1, 3, 3).double(), torch.zeros(1, 3, 3).double())
    assert _ridge(nothing, 0.5, False)[0].tolist() == pytest.approx([0.5] * 3)


def test_bytes_and_batches_by_hand(monkeypatch: pytest.MonkeyPatch):
    chain = capture(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), seeded(2, 4))
    assert _live_bytes(chain) == (4 + 3) * 4  # while the input is still needed
    around = capture(Function(lambda parts, x: parts[0](x).relu().exp() + x, nn.Linear(4, 4)), seeded(2, 4))
    assert _live_bytes(around) == 3 * 16  # beside what it is added to, an operator's input and output
    monkeypatch.setattr(stepping, "MEMORY", 2 * 28 * 20)
    data = [seeded(6, 4, seed=seed) for seed in range(9)]
    sizes = [len(inputs[0]) for inputs in batches_of(chain, data)]
    assert sizes == [6, 6, 6]  # there is room for 20 items
    assert [len(inputs[0]) for inputs in batches_of(chain, [seeded(19, 4)])] == [8, 8, 3]
    assert [len(inputs[0]) for inputs in batches_of(chain, data, 13)] == [6, 6]
    assert [len(inputs[0]) for inputs in batches_of(chain, data, 1)] == [6]  # one at least


def test_biases_of_layers_over_tokens_have_their_means_corrected():
    data = [seeded(6, 5, 4, seed=seed) for seed in range(3)]
    model = randomized(
        Function(lambda parts, x: parts[1](parts[0](x).relu()), nn.Linear(4, 5), nn.Linear(5, 3))
    )
    program = capture(model, data[0])
    plain = round_to_nearest(program, ADDS_INSIDE, data, options(weight_bits=2, end_bits=2))
    corrected, everything = gptq(plain, data, largest=0), torch.cat(data)
    expected = program(everything).mean((0, 1))
    assert (plain(everything).mean((0, 1)) - expected).abs().max() > 0.02
    torch.testing.assert_close(corrected(everything).mean((0, 1)), expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_two_batches_does_not_matter():
    """Each is one half of the data, and both are fitted to."""
    one, other = seeded(64, 6), seeded(64, 6, seed=1) @ seeded(6, 6, seed=2)
    program = capture(randomized(nn.Sequential(nn.Linear(6, 4))), one[:2])
    plain = round_to_nearest(program, ADDS_INSIDE, [one, other], options(weight_bits=4, end_bits=4))
    found = [
        gptq(plain, batches).module.get_parameter("0.weight") for batches in ([one, other], [other, one])
    ]
    torch.testing.assert_close(*found)
    alone = gptq(plain, [one, one]).module.get_parameter("0.weight")
    assert not torch.equal(alone, found[0])


def test_inputs_whose_squares_overflow_leave_weights_at_the_nearest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    data = [torch.randn(4, 8) * 1e19 for _ in range(8)]
    program = zp.quantize(zp.capture(model, data[0]), "static", calibration=data)
    assert program(data[0]).isfinite().all()
