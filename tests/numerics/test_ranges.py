import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import ADDS_INSIDE, images, options, residual, static

from zeropoint.numerics.ranges import BINS, ESTIMATORS, Statistics, merged, weight_minmax, weight_mse
from zeropoint.numerics.scheme import Scheme, choose_parameters

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


@pytest.mark.parametrize("estimator", ["mse", "entropy"])
@pytest.mark.parametrize("bits", [9, 12, 16])
def test_of_more_than_8_bits_nothing_is_clipped(estimator, bits):
    data = np.maximum(heavy_tailed(), 0)
    scheme = Scheme(bits, False, False)
    low, high = ESTIMATORS[estimator](statistics_of(data), scheme)
    assert (low, high) == (0, data.max())
    assert brute_force_error(data, low, high, scheme) < 0.3 * brute_force_error(
        data, 0, high, Scheme(8, False, False)
    )


def brute_force_divergence(counts, centers, low, high, scheme):
    """Migacz 2017 with loops, on an affine grid."""
    steps = scheme.qmax - scheme.qmin
    scale = (high - low) / steps
    zero_point = scheme.qmin - np.rint(low / scale)
    kept = [i for i, center in enumerate(centers) if low <= center <= high and counts[i] > 0]
    clipped = np.array([counts[i] for i in kept], dtype=np.float64)
    clipped[0] += sum(count for count, center in zip(counts, centers, strict=True) if center < low)
    clipped[-1] += sum(count for count, center in zip(counts, centers, strict=True) if center > high)
    level_of = [np.clip(np.rint(centers[i] / scale) + zero_point, scheme.qmin, scheme.qmax) for i in kept]
    quantized = np.array(
        [
            np.mean([counts[i] for i, level in zip(kept, level_of, strict=True) if level == own])
            for own in level_of
        ]
    )
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    return (p * np.log(p / q)).sum()


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.abs(np.random.default_rng(0).normal(size=5000)) ** 1.5, marks=pytest.mark.slow),
        np.abs(np.random.default_rng(0).normal(size=5000).round(1)) ** 1.5 + 1e-3,
        -(np.abs(np.random.default_rng(1).normal(size=5000).round(1)) ** 1.5) - 1e-3,
        np.random.default_rng(2).normal(size=5000).round(1) ** 3 / 8 + 2e-3,
    ],
    ids=["many values", "positive", "negative", "of both signs"],
)
@pytest.mark.parametrize("signed", [False, True])
def test_entropy_against_loops(values, signed):
    """No range that differs at one end is better."""
    scheme = Scheme(4, signed, False)
    statistics = statistics_of(values.astype(np.float32))
    low, high = ESTIMATORS["entropy"](statistics, scheme)
    counts, centers, middle = statistics.histogram.numpy().copy(), statistics.centers.numpy(), BINS // 2
    counts[middle] = min(counts[middle], max(counts[middle - 1], counts[middle + 1]))
    used = counts > 0
    counts, centers = counts[used], centers[used]
    shares, (least, most) = np.linspace(0.2, 1, 81), (statistics.low, statistics.high)
    beside = [(low, share * most) for share in shares if most] + [
        (share * least, high) for share in shares if least
    ]
    best = min(brute_force_divergence(counts, centers, *ends, scheme) for ends in beside)
    found = brute_force_divergence(counts, centers, low, high, scheme)
    assert found == pytest.approx(best, rel=1e-3)
    assert found < brute_force_divergence(counts, centers, least, most, scheme)
    assert ((low < 0), (high > 0)) == ((least < 0), (most > 0))


@pytest.mark.parametrize("scheme", [UNSIGNED, Scheme(), Scheme(4)])
@pytest.mark.parametrize("sign", [1, -1])
def test_entropy_of_values_far_from_zero_keeps_them(sign, scheme):
    values = sign * np.random.default_rng(0).uniform(2, 3, 10_000)
    ends = ESTIMATORS["entropy"](statistics_of(values.astype(np.float32)), scheme)
    assert max(ends, key=abs) * sign == pytest.approx(3, abs=0.1)
    assert min(ends, key=abs) == 0
    one_far = np.where(np.arange(1000) == 7, 3.0, 1.0) * sign
    ends = ESTIMATORS["entropy"](statistics_of(one_far.astype(np.float32)), scheme)
    assert 1.0 <= max(ends, key=abs) * sign <= 3.0


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


def test_the_layout_in_memory_is_no_matter():
    values = images(2, 3)
    plain, other = Statistics(), Statistics()
    plain.add(values, with_histogram=True)
    other.add(values.to(memory_format=torch.channels_last), with_histogram=True)
    assert (plain.low, plain.high) == (other.low, other.high) == (values.min().item(), values.max().item())
    assert torch.equal(plain.histogram, other.histogram)


@pytest.mark.parametrize(
    ("seen", "varies"),
    [
        (([2.0, 2.0],), False),
        (([2.0], [2.0]), False),
        (([0.0], [0.0]), False),
        (([2.0, 3.0],), True),
        (([2.0], [3.0]), True),
        (([3.0], [2.0], [2.0]), True),
        (([0.0], [2.0]), True),
    ],
)
def test_whether_values_vary(seen, varies):
    assert statistics_of(*seen).varies is varies


def test_bins_by_hand():
    statistics = statistics_of([5.0, -0.1], [9.0])
    assert statistics.reach == 16.0
    step = 32 / 4096
    assert statistics.centers[[0, 1, -1]].tolist() == [-16 + step / 2, -16 + 1.5 * step, 16 - step / 2]
    assert statistics.centers.dtype == torch.float64
    near = statistics.centers[statistics.histogram > 0]
    assert near.tolist() == pytest.approx([-0.1, 5.0, 9.0], abs=step / 2)
    assert statistics.histogram.sum() == 3


def test_statistics_without_a_histogram_keep_the_extremes():
    statistics = Statistics()
    statistics.add(torch.tensor([-1.0, 2.0]), with_histogram=False)
    assert (statistics.low, statistics.high, statistics.reach) == (-1.0, 2.0, 0.0)
    assert not statistics.histogram.any()
    for wrong in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="NaN or Inf"):
            statistics.add(torch.tensor([0.0, wrong]), with_histogram=False)


@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1.0, 40.0), (0.001, 7.0, 300.0)])
def test_merged_statistics_are_those_of_all_values(sizes):
    parts = [torch.randn(500, generator=torch.Generator().manual_seed(n)) * s for n, s in enumerate(sizes)]
    alone = [Statistics() for _ in parts]
    for one, values in zip(alone, parts, strict=True):
        one.add(values, True)
    together = Statistics()
    together.add(torch.cat(parts), True)
    found = merged(alone)
    assert (found.low, found.high, found.reach) == (together.low, together.high, together.reach)
    assert torch.equal(found.histogram, together.histogram)
    assert found.varies


@pytest.mark.parametrize("size", [1e-36, 1e-40])
def test_values_next_to_nothing_are_counted(size: float):
    """BINS over their range is more than float32 holds."""
    statistics = Statistics()
    statistics.add(torch.linspace(-1, 1, 9) * size, with_histogram=True)
    assert statistics.histogram.sum() == 9
    assert statistics.high == pytest.approx(size, rel=1e-3)
