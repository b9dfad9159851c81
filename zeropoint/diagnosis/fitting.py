"""Fitting anew: a fix is measured in a network whose other layers are fitted to it.

Fitted weights make up for the noise of the layers before them. Where a fix takes that noise away, they still
do, and hide most of the gain.
"""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from zeropoint.data.batches import FlatBatch
from zeropoint.graph.program import Program
from zeropoint.methods.static import fitted
from zeropoint.passes.blocks import float_network
from zeropoint.passes.integer_bias import round_biases
from zeropoint.passes.pairs import within_limits
from zeropoint.targets.options import Options

METHODS = ("static", "weight-only")  # that fit weights, and train none


def as_float(program: Program) -> Program:
    """The float network that a quantized Program was made from."""
    return dataclasses.replace(program, module=float_network(program), method="fp32", unfitted=None)


def unfitted(program: Program, processor: str) -> Program | None:
    """The Program with the float network's weights, to fit them anew as ``static`` does; else None.

    They cannot be where they are unknown or were trained, or another ``processor`` is asked about.
    """
    if program.unfitted is None or program.method not in METHODS or program.processor != processor:
        return None
    return dataclasses.replace(program, module=program.unfitted, unfitted=None)


def fit(rounded: Program, batches: Sequence[tuple[Tensor, ...]]) -> Program:
    """An unfitted Program fitted to batches of inputs, as ``static`` does."""
    data = [FlatBatch(inputs, None) for inputs in batches]
    return within_limits(round_biases(fitted(rounded, as_float(rounded), data, Options())))
