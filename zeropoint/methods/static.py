"""Static quantization: integer weights and activations, with ranges from calibration data."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from torch.fx import Node

from zeropoint import graph as fx
from zeropoint.batches import limit
from zeropoint.methods.attention import decompose_attention
from zeropoint.methods.fold import fold_batch_norms
from zeropoint.methods.gptq import gptq
from zeropoint.methods.insertion import insert_quantizers
from zeropoint.methods.nearest import nearest
from zeropoint.methods.shuffles import fold_shuffles
from zeropoint.options import Options
from zeropoint.placement import before_moves, place_static, shared_grids
from zeropoint.program import Program
from zeropoint.quantizers import insert_activation
from zeropoint.ranges import observe
from zeropoint.target import Target

HELD_OUT = 8  # of so many batches one is kept to judge by


def static(program: Program, target: Target, calibration: Iterable[Any], options: Options) -> Program:
    """The Program with fake-quantized weights and activations where ``target`` runs in int8.

    Weights of fewer than 8 bits are rounded by GPTQ where that brings the outputs nearer to float.
    """
    rounded = round_to_nearest(program, target, calibration, options)
    if rounded.weight_bits == 8:
        return rounded
    seen = limit(calibration, options.calibration_batches)
    to_fit = (batch for number, batch in enumerate(seen) if number % HELD_OUT != HELD_OUT - 1)
    return nearest(program, (gptq(rounded, to_fit), rounded), _held_out(seen))


def round_to_nearest(
    program: Program, target: Target, calibration: Iterable[Any], options: Options
) -> Program:
    """The Program with ranges from calibration data, and every weight at the nearest of its grid."""
    options.check_patterns(fx.module_names(program.module))
    folded = fold_shuffles(fold_batch_norms(program, options.no_fuse))
    if "product" in target.inputs:
        folded = decompose_attention(folded)
    module = fx.copy(folded.module)
    placement = place_static(module, target, options)
    nodes = {node.name: node for node in module.graph.nodes}
    # Moved values stay on the grid of where they were made, so that quantizing them again changes nothing.
    origins = {before_moves(nodes[name]).name for name in placement.sources}
    observed = {origin: placement.scheme_of(origin) for origin in sorted(origins)}
    grids = shared_grids(module, placement)
    parameters = observe(
        module, observed, calibration, options.ranges, options.calibration_batches, shared=grids
    )

    def behind(source: Node) -> Node:
        origin = before_moves(source).name
        return insert_activation(module, source, *parameters[origin], observed[origin])

    insert_quantizers(module, placement, options, behind)
    return dataclasses.replace(
        folded,
        module=module,
        method="static",
        target=target.name,
        weight_bits=placement.weight_scheme.bits,
        activation_bits=placement.activation_scheme.bits,
    )


def _held_out(batches: Iterable[Any]) -> Iterator[Any]:
    """Every batch that was not fitted to, or the first one where there are none."""
    held = list(itertools.islice(batches, HELD_OUT - 1, HELD_OUT))
    return itertools.islice(batches, *((HELD_OUT - 1, None, HELD_OUT) if held else (1,)))
