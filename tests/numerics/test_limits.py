"""Zero points at the limits of the integers, values of one sign, and axes: by hand and in NumPy."""

import numpy as np
import pytest
import torch

from zeropoint.numerics.learned import fake_quantize_learned
from zeropoint.numerics.ranges import (
    Statistics,
    entropy,
    minmax,
    moving_average,
    mse,
    percentile,
    weight_minmax,
    weight_mse,
)  # fmt: skip
from zeropoint.numerics.scheme import (
    Scheme,
    choose_parameters,
    dequantize,
    off_middle,
    per_channel_shape,
    quantize,
)

UNSIGNED, AFFINE = Scheme(8, signed=False, symmetric=False), Scheme(8, symmetric=False)


def seen(*batches: torch.Tensor) -> Statistics:
    statistics = Statistics()
    for batch in batches:
        statistics.add(batch, with_histogram=True)
    return statistics


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_values_of_one_sign_have_their_zero_at_a_limit(bits: int, signed: bool):
    scheme = Scheme(bits, signed=signed, symmetric=False)
    smallest = -(2 ** (bits - 1)) if signed else 0
    largest, steps = smallest + 2**bits - 1, 2**bits - 1
    low, high = torch.tensor([0.5, 0.0, -6.0, -6.0]), torch.tensor([3.0, 3.0, 0.0, -2.0])
    scale, zero_point = choose_parameters(low, high, scheme)
    assert zero_point.tolist() == [smallest, smallest, largest, largest]
    np.testing.assert_allclose(scale.numpy(), np.array([3, 3, 6, 6]) / steps, rtol=1e-6)
    ends = quantize(torch.tensor([3.0, 3.0, -6.0, -6.0]), scale, zero_point, scheme)
    assert ends.tolist() == [largest, largest, smallest, smallest]
    back = dequantize(ends, scale, zero_point).numpy()
    np.testing.assert_allclose(back, [3, 3, -6, -6], rtol=1e-6)


def test_a_zero_in_the_middle_of_unsigned_symmetric_integers_only_for_negative_values():
    scheme = Scheme(4, signed=False, symmetric=True)
    scale, zero_point = choose_parameters(
        torch.tensor([-2.0, -0.5, 0.0]), torch.tensor([-1.0, 3.5, 3.0]), scheme
    )
    assert zero_point.tolist() == [8, 8, 0]
    np.testing.assert_allclose(scale.numpy(), [2 / 7, 3.5 / 7, 3 / 15], rtol=1e-6)


def test_scales_too_small_for_kernels_are_raised():
    tiny = torch.tensor([2.0**-70])
    for scheme in (Scheme(), UNSIGNED):
        scale, zero_point = choose_parameters(torch.zeros(1), tiny, scheme)
        assert scale.item() == 2.0**-60
        assert zero_point.item() == 0


def test_the_middle_of_signed_integers_moves_too():
    scale, zero_point = off_middle(torch.tensor([1.0, 1.0]), torch.tensor([0, 3]), AFFINE)
    assert zero_point.tolist() == [-1, 3]
    np.testing.assert_allclose(scale.numpy(), [128 / 127, 1.0], rtol=1e-6)
    assert zero_point.dtype == torch.int64  # of what was given


def test_channels_lie_along_axis_0_unless_another_is_named():
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    scale, zero_point = torch.tensor([1.0, 10.0]), torch.tensor([0, 1], dtype=torch.int32)
    integers = quantize(values, scale, zero_point, Scheme())
    assert integers.tolist() == [[1, 10], [1, 3]]
    assert dequantize(integers, scale, zero_point).tolist() == [[1.0, 10.0], [0.0, 20.0]]
    assert dequantize(integers, scale, zero_point, axis=-1).tolist() == [[1.0, 90.0], [1.0, 20.0]]
    assert per_channel_shape(scale, 4, -1) == [1, 1, 1, -1]
    assert per_channel_shape(scale, 3, 1) == [1, -1, 1]
    assert per_channel_shape(scale[:1], 3, 1) == [1, 1, 1]


def test_statistics_of_negative_values():
    one, two = torch.tensor([[-4.0, -3.0]]), torch.tensor([[-2.0, -1.0]])
    statistics = seen(one, two)
    assert minmax(statistics, UNSIGNED) == (-4.0, 0.0)
    assert moving_average(statistics, UNSIGNED) == (pytest.approx(-3.98), pytest.approx(-2.98))
    assert statistics.reach == 8.0
    # Bins of 8 / 2048: -4 is the first of its bin, 1024 before the middle.
    assert statistics.histogram.nonzero().flatten().tolist() == [
        2048 - 1024,
        2048 - 768,
        2048 - 512,
        2048 - 256,
    ]
    assert percentile(statistics, UNSIGNED)[0] == pytest.approx(-4.0)
    assert percentile(statistics, UNSIGNED)[1] == pytest.approx(-1.0 + 16 / 4096)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_percentile_and_mse_cut_the_side_of_a_lone_outlier(sign: float):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(100_000, generator=generator)
    values[7] = 3.0  # far outside, and one of 100,000: less than a share of 0.0001
    statistics, mirror = seen(sign * values), seen(-sign * values)
    low, high = percentile(statistics, UNSIGNED)
    kept = float(np.quantile(values.numpy(), 0.9999))
    assert (high if sign > 0 else -low) == pytest.approx(kept, abs=2 * 8 / 4096)
    for estimator in (mse, entropy):
        low, high = estimator(statistics, UNSIGNED)
        assert (low, high) == tuple(-end for end in estimator(mirror, UNSIGNED)[::-1])
        assert 1.0 <= max(-low, high) < 3.0


@pytest.mark.parametrize(
    "scheme", [Scheme(3), Scheme(3, symmetric=False), Scheme(3, signed=False, symmetric=False)]
)
def test_mse_is_the_best_of_its_grid_by_brute_force(scheme: Scheme):
    """Values at the middles of bins, so that the histogram tells them exactly; ends that both move."""
    generator = torch.Generator().manual_seed(3)
    values = (torch.randn(2000, generator=generator) * 40).round().clamp(-100, 100) / 64 + 1 / 1024
    low, high = mse(seen(values), scheme)
    numbers = values.double().numpy()
    span = (numbers.min(), numbers.max())

    def error(a: float, b: float) -> float:
        """Of the affine or symmetric grid for a range, in float64."""
        if scheme.symmetric:
            step, zero = max(-a, b) / scheme.qmax, 0.0
        else:
            step = (b - a) / (scheme.qmax - scheme.qmin)
            zero = np.clip(scheme.qmin - np.round(a / step), scheme.qmin, scheme.qmax)
        rounded = np.clip(np.round(numbers / step) + zero, scheme.qmin, scheme.qmax) - zero
        return float(((rounded * step - numbers) ** 2).sum())

    grid = np.linspace(1.0, 0.2, 81)
    assert any(np.isclose(low, span[0] * share, rtol=1e-6) for share in grid)
    if scheme.symmetric:
        best = min(error(span[0] * share, span[1] * share) for share in grid)
        assert error(low, high) == pytest.approx(best, rel=1e-4)
    else:  # no move along one end is better
        beside = [error(low, span[1] * share) for share in grid] + [
            error(span[0] * share, high) for share in grid
        ]
        assert error(low, high) <= min(beside) * (1 + 1e-3)


def test_weights_of_one_sign_and_channels_along_another_axis():
    weight = torch.tensor([[[1.0, 2.0], [-3.0, -6.0]], [[4.0, 3.0], [-1.0, -2.0]]])
    scheme = Scheme(8, symmetric=False, granularity="per-channel")
    scale, zero_point = weight_minmax(weight, scheme, 1)
    assert zero_point.tolist() == [-128, 127]
    np.testing.assert_allclose(scale.numpy(), [4 / 255, 6 / 255], rtol=1e-6)
    (one,), _ = weight_minmax(weight, Scheme(), 1)
    assert float(one) == pytest.approx(6 / 127)
    found, zero_point = weight_mse(weight, scheme, 1)
    assert zero_point.tolist() == [-128, 127]
    assert ((found <= scale) & (found > 0.9 * scale)).all()


def test_learned_zero_points_beyond_the_integers_are_taken_at_their_limit():
    value = torch.tensor([-3.0, -1.0, 0.6, 9.0], requires_grad=True)
    scale = torch.tensor([0.5], requires_grad=True)
    zero_point = torch.tensor([20.0], requires_grad=True)
    out = fake_quantize_learned(value, scale, zero_point, None, 0, 15, 2.0)
    # The zero point is 15: nothing above zero can be represented.
    assert out.tolist() == [-3.0, -1.0, 0.0, 0.0]
    out.sum().backward()
    assert value.grad is not None
    assert scale.grad is not None
    assert zero_point.grad is not None
    assert value.grad.tolist() == [1.0, 1.0, 0.0, 0.0]
    # LSQ, eq. 3: inside, (rounded - value) / scale, of which none is left; clipped, the limit in steps, 0.
    assert scale.grad.tolist() == [0.0]
    # LSQ+, eq. 6: two clipped values, each -scale, times the factor of 2.
    assert zero_point.grad.tolist() == [-2.0]


def test_learned_channels_along_the_last_axis_with_zeros_at_both_limits():
    value = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [3.0, -9.0]], requires_grad=True)
    scale = torch.tensor([0.5, 1.0], requires_grad=True)
    zero_point = torch.tensor([0.0, 7.0])
    out = fake_quantize_learned(value, scale, zero_point, 1, 0, 7, 1.0)
    assert out.tolist() == [[0.0, -1.0], [1.0, 0.0], [3.0, -7.0]]
    out.sum().backward()
    assert value.grad is not None
    assert scale.grad is not None
    assert value.grad.tolist() == [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    assert scale.grad.tolist() == [0.0, -7.0]  # of clipped values the limit in steps
