"""Soft rounding against its formulas in NumPy, and the weight that it starts from."""

import numpy as np
import pytest
import torch

from zeropoint.graph.quantizers import Quantizer
from zeropoint.numerics.scheme import Scheme
from zeropoint.passes.softround import inverse_sigmoid, rectified_sigmoid, regularizer, soft_weight


def test_rectified_sigmoid_and_its_inverse():
    v = np.linspace(-6, 6, 49)
    expected = np.clip(1 / (1 + np.exp(-v)) * 1.2 - 0.1, 0, 1)
    np.testing.assert_allclose(rectified_sigmoid(torch.from_numpy(v)).numpy(), expected, atol=1e-12)
    h = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(rectified_sigmoid(inverse_sigmoid(h)), h)


@pytest.mark.parametrize("beta", [20.0, 5.5, 2.0])
def test_regularizer_by_hand(beta: float):
    h = np.array([[0.0, 0.1, 0.5], [0.6, 0.99, 1.0]])
    expected = sum(1 - abs(2 * x - 1) ** beta for x in h.flatten())
    assert float(regularizer(torch.from_numpy(h), beta)) == pytest.approx(expected)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_soft_weight_starts_as_the_weight_inside_its_grid(per_channel: bool):
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([0.3, 0.4, 0.5, 0.6] if per_channel else [0.4])
    scheme = Scheme(3, granularity="per-channel" if per_channel else "per-tensor")
    quantizer = Quantizer(None, None, scale, torch.zeros_like(scale).int(), scheme, 0)  # type: ignore[arg-type]
    soft = soft_weight(weight, quantizer, weight)
    steps = scale.reshape(-1, 1)
    inside = (weight >= -4 * steps) & (weight <= 3 * steps)
    torch.testing.assert_close(soft.soft[inside], weight[inside])
    assert (soft.soft[~inside] == weight.clamp(-4 * steps, 3 * steps)[~inside]).all()
    # On the grid it stays, free to move to the side that it came from.
    on_grid = (weight / steps).round() * steps
    again = soft_weight(on_grid, quantizer, weight)
    torch.testing.assert_close(again.hard, on_grid.clamp(-4 * steps, 3 * steps))
    assert torch.equal(again.floor, (weight / steps).floor())


def test_a_weight_on_the_grid_sets_out_a_tenth_of_a_step_towards_what_it_was():
    scale = torch.tensor([0.5])
    quantizer = Quantizer(None, None, scale, torch.zeros(1).int(), Scheme(3), 0)  # type: ignore[arg-type]
    soft = soft_weight(torch.tensor([1.0, 1.0, -0.5, 0.8]), quantizer, torch.tensor([0.9, 1.1, -0.4, 0.8]))
    assert soft.soft.tolist() == pytest.approx([0.95, 1.05, -0.45, 0.8])
    assert soft.floor.tolist() == [1, 2, -1, 1]
    assert soft.hard.tolist() == [1.0, 1.0, -0.5, 1.0]
    (gradient,) = torch.autograd.grad(soft.soft.sum(), soft.v)
    assert (gradient > 0).all()  # all of them can move
