import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from zeropoint.errors import InputError
from zeropoint.numerics.scheme import Scheme, choose_parameters, dequantize, off_middle, quantize

ends = st.floats(-1e4, 1e4, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
schemes = st.builds(Scheme, bits=st.integers(2, 8), signed=st.booleans(), symmetric=st.booleans())


def parameters(low, high, scheme):
    scale, zero_point = choose_parameters(torch.tensor([low]), torch.tensor([high]), scheme)
    return scale.item(), zero_point.item()


@pytest.mark.parametrize(
    ("low", "high", "scheme", "scale", "zero_point"),
    [
        (-1.0, 1.0, Scheme(8), 1 / 127, 0),
        (-2.0, 1.0, Scheme(4), 2 / 7, 0),
        (0.0, 2.54, Scheme(8), 2.54 / 127, 0),  # never negative, but signed: zero stays in the middle
        (0.0, 5.1, Scheme(8, signed=False), 5.1 / 255, 0),
        (-1.0, 1.0, Scheme(8, signed=False), 1 / 127, 128),
        (0.0, 2.55, Scheme(8, False, False), 0.01, 0),
        (-1.0, 1.55, Scheme(8, False, False), 0.01, 100),
        (1.0, 2.55, Scheme(8, False, False), 0.01, 0),  # widened to hold zero
        (-2.55, -1.0, Scheme(8, False, False), 0.01, 255),
        (-1.0, 2.0, Scheme(2, True, False), 1.0, -1),
        (0.0, 0.0, Scheme(8, False, False), 1.0, 0),
        (0.0, 0.0, Scheme(8), 1.0, 0),
    ],
)
def test_parameters_worked_by_hand(low, high, scheme, scale, zero_point):
    assert parameters(low, high, scheme) == (pytest.approx(scale, rel=1e-6), zero_point)


@given(a=ends, b=ends)
@example(a=-1.28, b=1.27)
def test_a_zero_in_the_middle_moves_and_the_range_still_fits(a, b):
    low, high = sorted((a, b))
    scheme = Scheme(8, signed=False, symmetric=False)
    before = choose_parameters(torch.tensor([low]), torch.tensor([high]), scheme)
    scale, zero_point = (part.item() for part in off_middle(*before, scheme))
    if before[1].item() != 128:
        assert (scale, zero_point) == (before[0].item(), before[1].item())
    else:
        assert zero_point == 127
        step = before[0].item()
        assert -zero_point * scale == pytest.approx(-128 * step)
        assert (255 - zero_point) * scale > 127 * step


def test_integers_worked_by_hand():
    values = torch.tensor([-9.0, -1.0, -0.26, 0.0, 0.25, 0.75, 1.0, 9.0])
    scale, zero_point = torch.tensor([0.5]), torch.tensor([1], dtype=torch.int32)
    integers = quantize(values, scale, zero_point, Scheme(4, True, False))
    assert integers.dtype == torch.int8
    # Half a step rounds to even: 0.25 / 0.5 = 0.5 → 0, 0.75 / 0.5 = 1.5 → 2. Clamped to -8..7.
    assert integers.tolist() == [-8, -1, 0, 1, 1, 3, 3, 7]
    assert dequantize(integers, scale, zero_point).tolist() == [-4.5, -1.0, -0.5, 0.0, 0.0, 1.0, 1.0, 3.0]


def test_one_scale_per_channel_along_the_axis():
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    scale, zero_point = torch.tensor([1.0, 10.0]), torch.zeros(2, dtype=torch.int32)
    assert quantize(values, scale, zero_point, Scheme(), axis=1).tolist() == [[1, 1], [2, 2]]
    assert quantize(values, scale, zero_point, Scheme(), axis=0).tolist() == [[1, 10], [0, 2]]


@given(ends, ends, schemes)
def test_zero_is_exact(a, b, scheme):
    scale, zero_point = choose_parameters(torch.tensor([min(a, b)]), torch.tensor([max(a, b)]), scheme)
    assert scheme.qmin <= zero_point.item() <= scheme.qmax
    zero = torch.zeros(1)
    assert dequantize(quantize(zero, scale, zero_point, scheme), scale, zero_point).item() == 0.0


@given(ends, ends, schemes, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_inside_the_range_the_error_is_half_a_step_at_most(a, b, scheme, shares):
    low, high = min(a, b), max(a, b)
    values = (low + (high - low) * torch.tensor(shares, dtype=torch.float64)).float().clamp(low, high)
    scale, zero_point = choose_parameters(torch.tensor([low]), torch.tensor([high]), scheme)
    error = dequantize(quantize(values, scale, zero_point, scheme), scale, zero_point) - values
    tolerance = 1e-6 * max(abs(low), abs(high))
    assert error.abs().max().item() <= scale.item() / 2 * (1 + 1e-5) + tolerance


@given(ends, ends, schemes, st.integers(0, 2**31))
def test_same_values_as_fake_quantize_per_tensor(a, b, scheme, seed):
    low, high = min(a, b), max(a, b)
    values = torch.randn(257, generator=torch.Generator().manual_seed(seed)) * max(abs(low), abs(high), 1.0)
    scale, zero_point = choose_parameters(torch.tensor([low]), torch.tensor([high]), scheme)
    expected = torch.fake_quantize_per_tensor_affine(
        values, scale.item(), zero_point.item(), scheme.qmin, scheme.qmax
    )
    actual = dequantize(quantize(values, scale, zero_point, scheme), scale, zero_point)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


@given(schemes, st.integers(0, 2**31), st.integers(0, 1))
def test_same_values_as_fake_quantize_per_channel(scheme, seed, axis):
    values = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(seed))
    flat = values.movedim(axis, 0).flatten(1)
    scale, zero_point = choose_parameters(flat.amin(1), flat.amax(1), scheme)
    expected = torch.fake_quantize_per_channel_affine(
        values, scale, zero_point, axis, scheme.qmin, scheme.qmax
    )
    actual = dequantize(quantize(values, scale, zero_point, scheme, axis), scale, zero_point, axis)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [-1, 0, 1, 17, 32])
def test_bits_out_of_range(bits):
    with pytest.raises(InputError, match=f"{bits} bits"):
        Scheme(bits)


@pytest.mark.parametrize("bits", [2, 16])
def test_bits_at_the_limits(bits):
    scheme = Scheme(bits)
    assert (scheme.qmin, scheme.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def test_unknown_granularity():
    with pytest.raises(InputError, match="per-block"):
        Scheme(granularity="per-block")


def test_range_of_integers():
    assert [(Scheme(b).qmin, Scheme(b).qmax) for b in (8, 4, 2)] == [(-128, 127), (-8, 7), (-2, 1)]
    assert [(Scheme(b, signed=False).qmin, Scheme(b, signed=False).qmax) for b in (8, 3)] == [
        (0, 255),
        (0, 7),
    ]
