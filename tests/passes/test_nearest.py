"""The nearest of several Programs, by errors worked out by hand."""

import dataclasses
import functools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.passes.nearest import nearest


class Scaled(nn.Module):
    """Two outputs of 1 and of 100 values, and one of integers: the input times a factor each."""

    def __init__(self, one: float, many: float) -> None:
        super().__init__()
        self.one, self.many = nn.Parameter(torch.tensor(one)), nn.Parameter(torch.tensor(many))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x[:, :1] * self.one, x.expand(-1, 100) * 1000 * self.many, x.argmax(1)


@functools.cache
def captured() -> Program:
    return capture(Scaled(1.0, 1.0), torch.ones(2, 1))


def program(one: float, many: float) -> Program:
    module = fx.copy(captured().module)
    for name, value in (("one", one), ("many", many)):
        fx.set_tensor(module, name, torch.tensor(value))
    return dataclasses.replace(captured(), module=module)


ONES = [torch.ones(2, 1)]


@pytest.mark.parametrize(
    ("candidates", "best"),
    [
        ([(1.0, 1.1), (1.0, 1.0), (1.1, 1.0)], 1),
        # Squared errors of 0.04 and 0.01, each of an output: neither its size nor its power counts.
        ([(1.2, 1.0), (1.0, 1.1)], 1),
        ([(1.1, 1.0), (1.0, 1.2)], 0),
        ([(0.9, 1.0), (1.1, 1.0)], 0),  # the first one among equals
        ([(1.1, 1.1), (1.12, 1.0)], 1),  # 0.01 twice against 0.0144
        ([(math.nan, 1.0), (1.5, 1.0)], 1),
        ([(math.nan, 1.0), (1.0, math.nan)], 0),
    ],
)
def test_the_smallest_relative_error_wins(candidates: list[tuple[float, float]], best: int):
    made = [program(*factors) for factors in candidates]
    assert nearest(program(1.0, 1.0), made, ONES) is made[best]


@pytest.mark.parametrize(("at_most", "best"), [(1.0, 0), (0.81, 0), (0.5, 1), (0.79, 1)])
def test_the_last_one_gives_way_only_to_one_that_is_so_much_nearer(at_most: float, best: int):
    made = [program(0.9, 1.0), program(1.0 + math.sqrt(0.0125), 1.0)]  # errors of 0.01 and 0.0125
    assert nearest(program(1.0, 1.0), made, ONES, at_most=at_most) is made[best]


def test_outputs_of_zeros_are_no_division_by_zero():
    made = [program(1.0, 1.0), program(1.0, 0.0)]
    assert nearest(program(1.0, 0.0), made, ONES) is made[1]


@pytest.mark.parametrize(("items", "expected"), [(3, 4), (4, 4), (5, 8), (100, 12)])
def test_no_more_items_are_looked_at_than_asked_for(items: int, expected: int):
    """Batches of two are put together to at most eight: 3 items are of the first two batches."""
    read = 0

    def batches() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(6):
            read += 2
            yield torch.ones(2, 1)

    made = [program(1.1, 1.0), program(1.0, 1.0)]
    assert nearest(program(1.0, 1.0), made, batches(), items) is made[1]
    assert expected <= read <= expected + 2  # that it is too much is seen by the one after it


def test_every_batch_counts():
    """The first one is right for positive inputs, the second for negative ones, of which there are more."""

    class Clipped(nn.Module):
        def __init__(self, low: float, high: float) -> None:
            super().__init__()
            self.low, self.high = low, high

        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(self.low, self.high)

    reference = capture(Clipped(-9.0, 9.0), torch.ones(2, 1))
    made = [capture(Clipped(*ends), torch.ones(2, 1)) for ends in ((0.0, 9.0), (-9.0, 0.0))]
    data = [torch.ones(8, 1), -torch.ones(8, 1), -torch.ones(8, 1)]
    assert nearest(reference, made, data) is made[1]
    assert nearest(reference, made, data, items=8) is made[0]
