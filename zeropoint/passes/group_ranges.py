"""Group ranges: run-time quantizers as engines compute them, with a range for a row or a few inputs of it.

With VNNI, OpenVINO divides each group of neighbouring inputs by its scale, ``s = max |x| / 127``, and rounds
to signed integers; the last group of a row may be smaller. Layers with fewer inputs than a group read floats.
Seen with OpenVINO 2026.4.1: outputs are those of this arithmetic to 130 dB and more.

XNNPACK has an affine range for each row: Jacob et al. 2018, eq. 1. No value lies beyond it, so that rounding
to the steps of its scale is all, wherever zero is.
"""

import dataclasses
from typing import Any, cast

import torch
from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import inserted
from zeropoint.graph.operators import FAKE_QUANTIZE_DYNAMIC, GROUPED, WHOLE_ROW, aten
from zeropoint.graph.program import Program

SMALLEST = 1e-30  # the scale of a group of zeros


def group_ranges(program: Program, size: int | None) -> Program:
    """The Program with a range for every ``size`` inputs of a row, wherever one is found at run time.

    It is symmetric; None for an affine range of each row.
    """
    module = fx.copy(program.module)
    for quantizer in module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_DYNAMIC):
        source = cast(Node, quantizer.args[0])
        inputs = source.meta["val"].shape[-1]
        with module.graph.inserting_before(quantizer):
            result = source if inputs < (size or 0) else _in_groups(quantizer, source, inputs, size)
        quantizer.replace_all_uses_with(result)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _in_groups(quantizer: Node, source: Node, inputs: int, group: int | None) -> Node:
    def then(target: Any, *operands: Any, **options: Any) -> Node:
        return inserted(quantizer, target, *operands, **options)

    size = group or inputs
    missing = -inputs % size
    padded = source
    if missing:  # by zeros made of the source: padding would fix the size of the batch
        zeros = then(aten.mul.Tensor, then(aten.slice.Tensor, source, -1, 0, missing), 0.0)
        padded = then(aten.cat.default, [source, zeros], -1)
    rows = then(aten.reshape.default, padded, [-1, (inputs + missing) // size, size])
    levels = GROUPED if group else WHOLE_ROW
    if group:
        width = then(aten.amax.default, then(aten.abs.default, rows), [-1], True)
    else:
        high = then(aten.clamp_min.default, then(aten.amax.default, rows, [-1], True), 0.0)
        low = then(aten.clamp_max.default, then(aten.amin.default, rows, [-1], True), 0.0)
        width = then(aten.sub.Tensor, high, low)
    scale = then(aten.clamp_min.default, then(aten.div.Tensor, width, float(levels[1])), SMALLEST)
    steps = then(aten.div.Tensor, rows, scale)
    unit = then(aten.full.default, [], 1.0)
    zero = then(aten.full.default, [], 0, dtype=torch.int32)
    rounded = then(FAKE_QUANTIZE_DYNAMIC, steps, unit, zero, *levels)
    whole = then(aten.view_as.default, then(aten.mul.Tensor, rounded, scale), padded)
    return then(aten.slice.Tensor, whole, -1, 0, inputs) if missing else whole
