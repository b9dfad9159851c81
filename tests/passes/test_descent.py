"""Gradient steps by hand, and how many items each of them has."""

import math

import pytest
import torch
from networks import Function, residual
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.passes import descent as module_of
from zeropoint.passes.descent import Descent, items_a_step


@pytest.mark.parametrize(("room", "items"), [(400, 10), (439, 10), (440, 11), (1 << 20, 32), (0, 2), (40, 2)])
def test_items_a_step_are_those_whose_values_fit(room: int, items: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module_of, "ACTIVATIONS", room)
    # Of an item: 4 inputs, 3 outputs, and those again after the ReLU, in float32.
    module = capture(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.ones(2, 4)).module
    assert items_a_step(module) == items


def test_small_networks_take_32_items_a_step():
    assert items_a_step(residual().module) == 32
    empty = capture(Function(lambda _, x: x.sum()), torch.tensor(1.0)).module
    assert items_a_step(empty) == 32


def test_steps_by_hand():
    """With one gradient throughout Adam moves by its rate, which falls by half a cosine."""
    value = torch.tensor([1.0, -1.0], requires_grad=True)
    descent = Descent([{"params": [value], "lr": 0.1}], 3)
    rates = [0.1 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(3)]
    for taken in range(3):
        assert descent.step((value * torch.tensor([3.0, -0.01])).sum())
        moved = sum(rates[: taken + 1])
        torch.testing.assert_close(
            value.detach(), torch.tensor([1 - moved, -1 + moved]), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_no_step_is_taken_where_the_loss_is_not_finite(wrong: float):
    value = torch.tensor([1.0], requires_grad=True)
    descent = Descent([{"params": [value], "lr": 0.1}], 3)
    assert not descent.step((value * wrong).sum())
    assert value.item() == 1.0
    assert descent.step(value.sum())
    assert value.item() == pytest.approx(0.9)


def test_it_goes_on_from_its_state():
    def steps(descent: Descent, value: torch.Tensor, count: int) -> None:
        for _ in range(count):
            descent.step(value.square().sum())

    whole, cut = (torch.tensor([1.0], requires_grad=True) for _ in range(2))
    steps(Descent([{"params": [whole], "lr": 0.1}], 4), whole, 4)
    before, after = (Descent([{"params": [cut], "lr": 0.1}], 4) for _ in range(2))
    steps(before, cut, 2)
    after.load_state_dict(before.state_dict())
    steps(after, cut, 2)
    assert torch.equal(whole, cut)
