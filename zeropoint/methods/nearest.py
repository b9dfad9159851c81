"""Nearest: of several Programs the one whose outputs are nearest to those of the float one, on data."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from zeropoint.batches import split
from zeropoint.program import Program

ITEMS = 32  # that are looked at, at least, where there are so many


def nearest(reference: Program, candidates: Sequence[Program], calibration: Iterable[Any]) -> Program:
    """The candidate of the smallest squared error, each output's relative to its own mean square.

    The first one among equals, or where an error is NaN.
    """
    errors, seen = torch.zeros(len(candidates), dtype=torch.float64), 0
    for batch in calibration:
        inputs, _ = split(batch)
        expected = [output.double() for output in reference(*inputs) if output.is_floating_point()]
        for index, candidate in enumerate(candidates):
            outputs = [output for output in candidate(*inputs) if output.is_floating_point()]
            for output, wanted in zip(outputs, expected, strict=True):
                errors[index] += (output - wanted).square().mean() / wanted.square().mean().clamp(min=1e-30)
        seen += len(inputs[0])
        if seen >= ITEMS:
            break
    return candidates[int(errors.nan_to_num(torch.inf).argmin())]
