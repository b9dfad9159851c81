import itertools
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import ADDS_INSIDE, images, options, residual, static
from torch import nn

from zeropoint.errors import InputError, InputWarning
from zeropoint.graph.capture import capture
from zeropoint.numerics.ranges import BINS, ESTIMATORS, Statistics, weight_minmax, weight_mse
from zeropoint.numerics.scheme import Scheme, choose_parameters
from zeropoint.passes.observe import Ranges

UNSIGNED = Scheme(8, signed=False, symmetric=False)


def statistics_of(*batches):
    statistics = Statistics()
    for batch in batches:
        statistics.add(torch.as_tensor(batch), with_histogram=True)
    return statistics


values = st.lists(
    st.floats(-1e6, 1e6, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6), min_size=1, max_size=30
)


@given(st.lists(values, min_size=1, max_size=6), st.randoms())
def test_histogram_is_that_of_all_data_in_any_order(batches, shuffler):
    tensors = [torch.tensor(batch, dtype=torch.float32) for batch in batches]
    statistics = statistics_of(*tensors)
    everything = torch.cat(tensors).double().numpy()
    assert statistics.histogram.sum() == (len(everything) if everything.any() else statistics.histogram.sum())
    if statistics.reach:
        edges = np.linspace(-statistics.reach, statistics.reach, BINS + 1)
        expected, _ = np.histogram(everything[np.abs(everything) < statistics.reach], edges)
        leading_zeros = sum(len(t) for t in itertools.takewhile(lambda t: not t.any(), tensors))
        expected[BINS // 2] -= 0 if statistics.histogram.sum() == len(everything) else leading_zeros
        assert np.array_equal(statistics.histogram.numpy(), expected)
    shuffler.shuffle(tensors)
    other = statistics_of(*tensors)
    assert (other.low, other.high, other.reach) == (statistics.low, statistics.high, statistics.reach)
    assert torch.equal(other.histogram, statistics.histogram)


def test_memory_does_not_grow_with_the_data():
    def size(statistics):
        return sum(sys.getsizeof(v) for v in vars(statistics).values()) + statistics.histogram.nbytes

    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(1000, generator=generator) * 2**i for i in range(20)]
    assert size(statistics_of(*batches)) == size(statistics_of(batches[0]))


def test_minmax_and_moving_average_by_hand():
    statistics = statistics_of([-1.0, 2.0], [-3.0, 1.0], [0.5, 4.0])
    assert ESTIMATORS["minmax"](statistics, UNSIGNED) == (-3.0, 4.0)
    low = 0.99 * (0.99 * -1 + 0.01 * -3) + 0.01 * 0.5
    high = 0.99 * (0.99 * 2 + 0.01 * 1) + 0.01 * 4
    assert ESTIMATORS["moving-average"](statistics, UNSIGNED) == pytest.approx((low, high))


def heavy_tailed(count=20_000, seed=0):
    return np.random.default_rng(seed).standard_t(2, count).astype(np.float32)


def test_percentile_against_numpy():
    data = heavy_tailed()
    low, high = ESTIMATORS["percentile"](statistics_of(data), UNSIGNED)
    step = 2 * statistics_of(data).reach / BINS
    for end, share in ((low, 0.0001), (high, 0.9999)):
        # Values are spread thin out there: the end lies between the neighbours of the exact percentile.
        ordered = np.sort(data)
        rank = round(share * len(data))
        assert ordered[rank - 2] - step <= end <= ordered[min(rank + 1, len(data) - 1)] + step


def brute_force_error(data, low, high, scheme):
    low, high = min(low, 0), max(high, 0)
    if scheme.symmetric:
        middle = 0 if scheme.signed else (1 << (scheme.bits - 1) if low < 0 else 0)
        scale, zero_point = max(-low, high) / (scheme.qmax - middle), middle
    else:
        scale = (high - low) / (scheme.qmax - scheme.qmin)
        zero_point = scheme.qmin - np.rint(low / scale)
    integers = np.clip(np.rint(data / scale) + zero_point, scheme.qmin, scheme.qmax)
    return (((integers - zero_point) * scale - data) ** 2).mean()


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("data", [heavy_tailed(), np.maximum(heavy_tailed(), 0), -np.abs(heavy_tailed()) - 1])
def test_mse_is_near_the_best_of_all_ranges(bits, symmetric, data):
    scheme = Scheme(bits, False, symmetric)
    found = brute_force_error(data, *ESTIMATORS["mse"](statistics_of(data), scheme), scheme)
    shares = np.linspace(0.2, 1, 33)
    lows, highs = shares * min(data.min(), 0), shares * max(data.max(), 0)
    grid = set(zip(lows, highs, strict=True)) if symmetric else set(itertools.product(lows, highs))
    best = min(brute_force_error(data, low, high, scheme) for low, high in grid)
    assert found <= best * 1.1
    assert found <= brute_force_error(data, data.min(), data.max(), scheme) * 1.001


def brute_force_divergence(counts, centers, high, levels):
    """Migacz 2017 for a tensor without negative values, with loops."""
    scale = high / (levels - 1)
    kept = [i for i, center in enumerate(centers) if center <= high and counts[i] > 0]
    clipped = np.array([counts[i] for i in kept], dtype=np.float64)
    clipped[-1] += sum(count for count, center in zip(counts, centers, strict=True) if center > high)
    level_of = [int(np.rint(centers[i] / scale)) for i in kept]
    quantized = np.array(
        [
            np.mean([counts[i] for i, level in zip(kept, level_of, strict=True) if level == own])
            for own in level_of
        ]
    )
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    return (p * np.log(p / q)).sum()


@pytest.mark.slow
def test_entropy_against_loops():
    scheme = Scheme(4, False, False)
    data = np.abs(np.random.default_rng(0).normal(size=5000)).astype(np.float32) ** 1.5
    statistics = statistics_of(data)
    low, high = ESTIMATORS["entropy"](statistics, scheme)
    counts, centers = statistics.histogram.numpy().copy(), statistics.centers.numpy()
    counts[BINS // 2] = min(counts[BINS // 2], counts[BINS // 2 + 1])
    used = slice(BINS // 2, None)
    costs = {
        share: brute_force_divergence(counts[used], centers[used], share * data.max(), 16)
        for share in np.linspace(0.2, 1, 81)
    }
    best = min(costs.values())
    found = brute_force_divergence(counts[used], centers[used], high, 16)
    assert low == 0
    assert found == pytest.approx(best, rel=1e-3)


def test_zeros_of_a_relu_do_not_move_entropy():
    data = np.abs(heavy_tailed())
    with_zeros = np.concatenate([data, np.zeros(50_000, np.float32)])
    expected = ESTIMATORS["entropy"](statistics_of(data), UNSIGNED)
    assert ESTIMATORS["entropy"](statistics_of(with_zeros), UNSIGNED) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("data", [[0.0], [3.0], [-3.0], [1e-30, 2e-30], [1e30, -1e30]])
def test_extreme_data_gives_usable_parameters(name, symmetric, data):
    scheme = Scheme(8, False, symmetric)
    ends = ESTIMATORS[name](statistics_of(data), scheme)
    low, high = (torch.tensor([end]) for end in ends)
    scale, zero_point = choose_parameters(low, high, scheme)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert 0 <= zero_point.item() <= 255
    assert min(0, *data) * 1.01 <= ends[0] <= 0 or ends[0] == pytest.approx(data[0])
    assert ends[1] <= max(0, *data) * 1.01


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_quantizes_a_network_well(name):
    program = residual()
    quantized = static(program, ADDS_INSIDE, [images(16, seed) for seed in range(4)], options(ranges=name))
    from networks import sqnr

    assert sqnr(program(images(16, 9)), quantized(images(16, 9))) > 20


def test_weights_by_hand():
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.25], [0.0, 0.0]])
    scale, zero_point = weight_minmax(weight, Scheme(granularity="per-channel"), 0)
    torch.testing.assert_close(scale, torch.tensor([2 / 127, 0.5 / 127, 1.0]))
    assert zero_point.tolist() == [0, 0, 0]
    scale, _ = weight_minmax(weight, Scheme(granularity="per-channel"), 1)
    torch.testing.assert_close(scale, torch.tensor([1 / 127, 2 / 127]))
    scale, zero_point = weight_minmax(weight, Scheme(8, True, False), 0)
    torch.testing.assert_close(scale, torch.tensor([3 / 255]))
    assert zero_point.tolist() == [-128 + 170]


def test_weight_mse_is_no_worse_than_minmax_and_no_worse_than_the_grid():
    weight = torch.from_numpy(heavy_tailed(400)).reshape(4, 100)
    for scheme in (
        Scheme(4, granularity="per-channel"),
        Scheme(3, symmetric=False, granularity="per-channel"),
    ):
        scale, zero_point = (part.double().unsqueeze(1) for part in weight_mse(weight, scheme, 0))
        integers = (torch.round(weight.double() / scale) + zero_point).clamp(scheme.qmin, scheme.qmax)
        found = (((integers - zero_point) * scale - weight) ** 2).mean(1)
        for row, error in zip(weight.double().numpy(), found, strict=True):
            grid = [
                brute_force_error(row, row.min() * s, row.max() * s, scheme) for s in np.linspace(0.2, 1, 81)
            ]
            assert error.item() == pytest.approx(min(grid), rel=1e-3)


def batches(n=4):
    return [images(2, seed) for seed in range(n)]


def observe(module, sources, calibration, estimator, **keywords):
    ranges = Ranges(module, sources, estimator, **keywords)
    ranges.see(calibration)
    return ranges.parameters()


def run(calibration, program=None, estimator="minmax", **keywords):
    module = (program or residual()).module
    source = module.graph.find_nodes(op="placeholder")[0].name
    return observe(module, {(source, UNSIGNED)}, calibration, estimator, **keywords)


def test_observed_in_one_pass():
    everything = torch.cat(batches())
    ((scale, zero_point),) = run(iter(batches())).values()
    expected = choose_parameters(everything.min().reshape(1), everything.max().reshape(1), UNSIGNED)
    assert (scale, zero_point) == expected


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ranges_go_on_from_the_batches_before(estimator):
    module = residual().module
    source = module.graph.find_nodes(op="placeholder")[0].name
    parts = Ranges(module, {(source, UNSIGNED)}, estimator)
    parts.see(batches()[:1])
    (few,) = parts.parameters().values()
    parts.see(batches()[1:], first=1)
    (whole,) = run(batches(), estimator=estimator).values()
    assert parts.parameters() == {(source, UNSIGNED): whole}
    assert few != whole
    with pytest.raises(InputError, match="batch 6 has shape"):
        parts.see([images(), torch.randn(3, 8, 8)], first=4)


@pytest.mark.parametrize(
    ("calibration", "match"),
    [
        ([], "empty"),
        ([images(0)], "batch 1 is empty"),
        ([images(), images() * float("nan")], "batch 2 holds NaN"),
        ([images() / 0], "holds NaN or Inf"),
        ([torch.randn(2, 4, 8, 8)], r"shape \(2, 4, 8, 8\); the model takes \(any, 3, 8, 8\)"),
        ([torch.randn(3, 8, 8)], "has shape"),
        ([(images(), images())], "has 2 inputs; the model takes 1"),
        ([images().double()], "float64"),
        ([images().to(torch.uint8)], "uint8"),
        (["image"], "batch"),
    ],
)
def test_calibration_data_that_does_not_fit(calibration, match):
    with pytest.raises(InputError, match=match) as caught:
        run(calibration)
    assert "\n" not in str(caught.value)


def test_every_source_has_a_scheme_of_its_own():
    module = residual().module
    names = [node.name for node in module.graph.nodes if node.name in ("x", "relu_")]
    four, signed = Scheme(4, signed=False, symmetric=False), Scheme()
    found = observe(module, list(zip(names, (four, signed), strict=True)), batches(), "minmax")
    found = {name: parameters for (name, _), parameters in found.items()}
    everything = torch.cat(batches())
    low, high = everything.min().item(), everything.max().item()
    assert found["x"][0].item() == pytest.approx((high - low) / 15)
    assert found["x"][1].item() == round(-low / ((high - low) / 15))
    with torch.no_grad():
        values = torch.fx.Interpreter(module, garbage_collect_values=False)
        values.run(everything)
    (relu,) = (value for node, value in values.env.items() if node.name == "relu_")
    assert found["relu_"][0].item() == pytest.approx(relu.max().item() / 127, rel=1e-5)
    assert found["relu_"][1].item() == 0


def test_values_that_overflow_inside_the_model_are_told_with_the_module():
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(x)

    program = capture(nn.Sequential(nn.Identity(), Log(), nn.Conv2d(3, 2, 1)), images().abs())
    with pytest.raises(InputError, match="NaN or Inf in the values of 1 on calibration data") as caught:
        static(program, ADDS_INSIDE, [images()], options())
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_on_the_data():
    program = capture(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)), torch.tensor([[1, 2]]))
    with pytest.raises(InputError, match="fails on calibration batch 1: index out of range") as caught:
        static(program, ADDS_INSIDE, [torch.tensor([[7, 2]])], options())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_order_of_batches_does_not_matter_to_what_is_found():
    shuffled = batches(6)
    random.Random(0).shuffle(shuffled)
    for name in ("minmax", "percentile", "mse", "entropy"):
        assert run(batches(6), estimator=name) == run(shuffled, estimator=name)


def test_of_large_tensors_the_histogram_is_a_fair_sample_and_the_extremes_are_of_all():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(8, 64, 56, 56, generator=generator) * torch.arange(1, 65).reshape(1, -1, 1, 1)
    values[3, 5, 7, 9] = 1e3
    statistics = Statistics()
    statistics.add(values, with_histogram=True)
    assert statistics.high == 1e3
    assert statistics.histogram.sum() < values.numel() / 4
    share = float(statistics.histogram[statistics.centers.abs() < 30].sum() / statistics.histogram.sum())
    assert share == pytest.approx(float((values.abs() < 30).double().mean()), abs=0.01)


@pytest.mark.parametrize(("estimator", "runs"), [("minmax", 2), ("mse", 2), ("moving-average", 12)])
def test_small_batches_are_run_together_but_for_averages_of_batches(estimator, runs, monkeypatch):
    sizes = []
    run_node = torch.fx.Interpreter.run

    def counting(self, *inputs, **keywords):
        sizes.append(len(inputs[0]))
        return run_node(self, *inputs, **keywords)

    monkeypatch.setattr(torch.fx.Interpreter, "run", counting)
    together = torch.cat([images(1, seed) for seed in range(12)])
    one_by_one = run(list(together.split(1)), estimator=estimator)
    assert len(sizes) == runs
    assert sum(sizes) == 12
    if estimator != "moving-average":
        assert one_by_one == run([together], estimator=estimator)


def test_the_layout_in_memory_is_no_matter():
    values = images(2, 3)
    plain, other = Statistics(), Statistics()
    plain.add(values, with_histogram=True)
    other.add(values.to(memory_format=torch.channels_last), with_histogram=True)
    assert (plain.low, plain.high) == (other.low, other.high) == (values.min().item(), values.max().item())
    assert torch.equal(plain.histogram, other.histogram)


@pytest.mark.parametrize(
    ("calibration", "match"),
    [
        ([images(1)], "a single input"),
        ([torch.zeros(4, 3, 8, 8)], "the values of x are all the same"),
        ([torch.full((4, 3, 8, 8), 2.0)] * 2, "the values of x are all the same"),
    ],
)
def test_data_that_says_too_little_is_warned_of(calibration, match):
    with pytest.warns(InputWarning, match=match):
        ((scale, _),) = run(calibration).values()
    assert scale.isfinite().all()


@pytest.mark.parametrize(
    "calibration",
    [
        [images(2)],
        [torch.full((2, 3, 8, 8), 2.0), torch.full((2, 3, 8, 8), 3.0)],
        [torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), -1.0)],
        [torch.full((2, 3, 8, 8), 2.0), torch.zeros(2, 3, 8, 8)],
    ],
)
def test_other_data_is_not(calibration, recwarn):
    run(calibration, estimator="moving-average")  # batch by batch
    assert not [one for one in recwarn if one.category is InputWarning]


def test_what_a_relu_cuts_off_behind_an_addition_of_one_for_all():
    """An operand that has no batch of its own, as a parameter has none."""

    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.offset = nn.Conv2d(1, 1, 1), nn.Parameter(torch.tensor([[[[2.0]]]]))

        def forward(self, x):
            return torch.relu(self.layer(x) + self.offset)

    model = Offset()
    nn.init.ones_(model.layer.weight)
    nn.init.zeros_(model.layer.bias)
    x = torch.tensor([-9.0, -1.0, 3.0]).reshape(3, 1, 1, 1)
    ((scale, zero_point),) = observe(capture(model, x).module, {("conv2d", UNSIGNED)}, [x], "minmax").values()
    # -9 + 2 is cut off, as all below -2 is.
    assert (scale, zero_point) == choose_parameters(torch.tensor([-2.0]), torch.tensor([3.0]), UNSIGNED)


def test_what_a_relu_cuts_off_behind_an_addition_needs_no_range():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)

        def forward(self, x, y):
            return torch.relu(self.layer(x) + y)

    model = Shortcut()
    nn.init.ones_(model.layer.weight)
    nn.init.zeros_(model.layer.bias)
    x, y = (
        torch.tensor(values).reshape(4, 1, 1, 1)
        for values in ([-9.0, -3.0, 2.0, -8.0], [1.0, 4.0, 5.0, -6.0])
    )
    # -9 + 1 and -8 - 6 are cut off; -3 + 4 is not, nor 2 + 5.
    ((scale, zero_point),) = observe(
        capture(model, (x, y)).module, {("conv2d", UNSIGNED)}, [(x, y)], "minmax"
    ).values()
    assert (scale, zero_point) == choose_parameters(torch.tensor([-3.0]), torch.tensor([2.0]), UNSIGNED)
