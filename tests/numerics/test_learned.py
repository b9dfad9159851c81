"""Learned fake quantization against the papers' equations in float64, and against ATen's own operators."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zeropoint.numerics.learned import fake_quantize_learned

aten = torch.ops.aten


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(
    value: Tensor, scale: Tensor, zero_point: Tensor, upstream: Tensor, *rest: object
) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (value, scale, zero_point)]
    output = fake_quantize_learned(*leaves, *rest)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def by_the_papers(
    value: Tensor, scale: Tensor, zero_point: Tensor, upstream: Tensor, low: int, high: int, kind: str
) -> list[Tensor]:
    """LSQ eq. 1 to 3, LSQ+ eq. 6 times the offset's slope of -scale, PACT eq. 3, value by value, float64."""
    v, s, g = value.double(), scale.double(), upstream.double()
    z = zero_point.double().round().clamp(low, high)
    level = (v / s).round() + z
    inside = (level >= low) & (level <= high)
    rounded = (level.clamp(low, high) - z) * s
    slope = torch.where(inside, (rounded - v) / s if kind == "lsq" else torch.zeros_like(v), rounded / s)
    offset = torch.where(inside, torch.zeros_like(v), -s.expand_as(v))
    return [rounded, g * inside, g * slope, g * offset]


@pytest.mark.parametrize("kind", ["lsq", "pact"])
@pytest.mark.parametrize(
    ("low", "high", "zero"), [(-8, 7, 0.0), (0, 255, 0.0), (0, 15, 6.3), (-128, 127, -3.0)]
)
def test_gradients_are_the_papers(kind: str, low: int, high: int, zero: float):
    value, upstream = values(6, 5, 7), values(6, 5, 7, seed=1)
    scale, zero_point = torch.tensor([2.5 / high]), torch.tensor([zero])
    found = gradients(value, scale, zero_point, upstream, None, low, high, 0.25, kind)
    rounded, at_value, at_scale, at_zero_point = by_the_papers(
        value, scale, zero_point, upstream, low, high, kind
    )
    torch.testing.assert_close(found[0].double(), rounded, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1].double(), at_value)
    torch.testing.assert_close(found[2].double(), 0.25 * at_scale.sum().reshape(1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[3].double(), 0.25 * at_zero_point.sum().reshape(1), rtol=1e-4, atol=1e-4)


def test_gradients_of_channels_are_the_papers():
    value, upstream = values(3, 4, 5), values(3, 4, 5, seed=1)
    scale, zero_point = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.zeros(4)
    found = gradients(value, scale, zero_point, upstream, 1, -4, 3, 1.0)
    for channel in range(4):
        part = (value[:, channel], scale[channel], zero_point[channel], upstream[:, channel])
        rounded, at_value, at_scale, _ = by_the_papers(*part, -4, 3, "lsq")
        torch.testing.assert_close(found[0][:, channel].double(), rounded, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found[1][:, channel].double(), at_value)
        torch.testing.assert_close(found[2][channel].double(), at_scale.sum(), rtol=1e-4, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.booleans(), st.floats(0.005, 2.0), st.integers(0, 1000))
def test_it_is_what_atens_operators_compute(bits: int, signed: bool, step: float, seed: int):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    value, upstream = values(3, 8, 4, 4, seed=seed), values(3, 8, 4, 4, seed=seed + 1)
    zero = torch.tensor([0.0 if signed else float(seed % (high + 1))])
    found = gradients(value, torch.tensor([step]), zero, upstream, None, low, high, 0.5)
    expected = aten._fake_quantize_learnable_per_tensor_affine(
        value, torch.tensor([step]), zero, low, high, 0.5
    )
    theirs = aten._fake_quantize_learnable_per_tensor_affine_backward(
        upstream, value, torch.tensor([step]), zero, low, high, 0.5
    )
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], theirs[0])
    torch.testing.assert_close(found[2], theirs[1].reshape(1), rtol=1e-3, atol=1e-3 * max(1.0, 1 / step))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_order_of_memory_does_not_matter(memory_format: torch.memory_format):
    value, upstream = values(2, 3, 4, 5), values(2, 3, 4, 5, seed=1)
    plain = gradients(value, torch.tensor([0.1]), torch.zeros(1), upstream, None, -8, 7, 1.0)
    value, upstream = (tensor.contiguous(memory_format=memory_format) for tensor in (value, upstream))
    found = gradients(value, torch.tensor([0.1]), torch.zeros(1), upstream, None, -8, 7, 1.0)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_few_bits_of_precision_lose_no_levels():
    value = values(1000).bfloat16()
    rounded = fake_quantize_learned(value, torch.tensor([0.011]), torch.zeros(1), None, -128, 127, 1.0)
    assert rounded.dtype == torch.float32
    levels = rounded / 0.011
    assert math.isclose(float((levels - levels.round()).abs().max()), 0.0, abs_tol=1e-4)
