"""Weights that overflow in pairs are moved to the nearest that do not; all else stays as it is."""

import dataclasses

import pytest
import torch
from networks import ADDS_INSIDE, options, round_to_nearest
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.passes.pairs import within_limits

DATA = [torch.rand(8, 4, generator=torch.Generator().manual_seed(0))]


def program(rows: list[list[float]], processor: str, **chosen: object) -> Program:
    """A layer quantized for a processor that does not saturate, said to be for ``processor``."""
    layer = nn.Linear(4, len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    quantized = round_to_nearest(
        capture(layer, DATA[0][:2]), ADDS_INSIDE, DATA, options(processor="vnni", **chosen)
    )
    return dataclasses.replace(quantized, processor=processor)


def integers(of: Program) -> list[list[int]]:
    (weight,) = (one for one in quantizers(of.module) if one.is_weight)
    return weight.integers(of.module).tolist()


ROWS = [[127.0, 100.0, 3.0, 4.0], [-127.0, -2.0, -60.0, -80.0], [127.0, -127.0, 64.0, 64.0]]


def test_pairs_are_moved_by_half_of_what_is_too_much():
    before = program(ROWS, "avx2")
    after = within_limits(before)
    assert integers(before) == ROWS
    # 227 is 99 above 128: 49.5 off each, of which halves are rounded to even. 129 and 140 likewise.
    assert integers(after)[0] == [78, 50, 3, 4]
    assert integers(after)[1] == [-126, -2, -54, -74]
    assert integers(after)[2] == ROWS[2]
    assert integers(before) == ROWS  # the one that was given stays


@pytest.mark.parametrize("processor", ["vnni", "arm", ""])
def test_other_processors_need_no_limit(processor: str):
    before = program(ROWS, processor)
    assert within_limits(before) is before


def test_what_is_within_the_limits_comes_back_itself():
    before = program([[127.0, 1.0, 64.0, 64.0]], "avx2")
    assert within_limits(before) is before


def test_fewer_bits_cannot_overflow():
    before = program(ROWS, "avx2", weight_bits=7, weight_ranges="minmax")
    assert within_limits(before) is before
