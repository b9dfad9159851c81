"""Weights that cannot overflow: for processors that add products of 8-bit integers in pairs, in 16 bits."""

import dataclasses

import torch

from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.scheme import dequantize
from zeropoint.targets import saturation


def within_limits(program: Program) -> Program:
    """The Program with no two weights that overflow on its processor when their products are added.

    Scales are chosen so that weights rounded to nearest do not; fitting and training may move some beyond.
    """
    paired = saturation.pairings(program.module, program.processor)
    module, moved = fx.copy(program.module) if paired else program.module, False
    for one in quantizers(module):
        pairing = paired.get(str(one.source.target)) if one.is_weight and one.scheme.bits == 8 else None
        if pairing is None:
            continue
        integers = one.integers(module)
        levels = saturation.within_limits(integers.float(), pairing).round()
        if not torch.equal(levels, integers.float()):
            weight = dequantize(levels, one.scale, one.zero_point, one.axis)
            fx.set_tensor(module, str(one.source.target), weight, trainable=True)
            moved = True
    return dataclasses.replace(program, module=module) if moved else program
