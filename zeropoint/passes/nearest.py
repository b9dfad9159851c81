"""Nearest: of several Programs the one whose outputs are nearest to those of the float one, on data."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from zeropoint.data.batches import inputs_of, items_of
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.graph.quantizers import Simulation
from zeropoint.memory import keeping_freed

ITEMS = 32  # items that are compared at least, if there are as many
GATHERED = 8  # items at a time


@keeping_freed()
def nearest(
    reference: Program,
    candidates: Sequence[Program],
    calibration: Iterable[Any],
    items: int = ITEMS,
    *,
    at_most: float = 1.0,
) -> Program:
    """The candidate of the smallest squared error, each output's relative to its own mean square.

    The first one among equals, or where an error is NaN; but the last one where none has ``at_most`` times
    its error. Looks at ``items``, and at the rest of their batch.
    """
    errors, seen = torch.zeros(len(candidates), dtype=torch.float64), 0
    for inputs in inputs_of(calibration, min(items, GATHERED) if reference.dynamic_batch else None):
        expected = _outputs(reference, inputs)
        for index, candidate in enumerate(candidates):
            for output, wanted in zip(_outputs(candidate, inputs), expected, strict=True):
                errors[index] += (output - wanted).square().mean() / wanted.square().mean().clamp(min=1e-30)
        seen += items_of(inputs)
        if seen >= items:
            break
    errors = errors.nan_to_num(torch.inf)
    errors[-1] *= at_most
    return candidates[int(errors.argmin())]


def _outputs(program: Program, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        found = flat_tensors(Simulation(program.module).run(*inputs))
    outputs = without_hidden(program.signature.input_names, inputs, found)
    return [output.double() for output in outputs if output.is_floating_point()]
