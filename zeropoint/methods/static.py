"""Static quantization: integer weights and activations, with ranges from calibration data."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch.fx import Node

from zeropoint import graph as fx
from zeropoint.batches import limit, split
from zeropoint.macs import work
from zeropoint.methods.adaround import adaround
from zeropoint.methods.attention import decompose_attention
from zeropoint.methods.bf16 import observable
from zeropoint.methods.equalize import equalize
from zeropoint.methods.fold import fold_batch_norms
from zeropoint.methods.gptq import POSITIONS, gptq
from zeropoint.methods.insertion import insert_quantizers
from zeropoint.methods.integer_bias import make_room, round_biases
from zeropoint.methods.nearest import ITEMS, nearest
from zeropoint.methods.pairs import within_limits
from zeropoint.methods.shuffles import fold_shuffles
from zeropoint.options import Options
from zeropoint.placement import before_moves, place_static, shared_grids
from zeropoint.program import Program
from zeropoint.quantizers import insert_activation
from zeropoint.ranges import observe
from zeropoint.scheme import Scheme, off_middle
from zeropoint.target import Target

HELD_OUT = 8  # of so many batches one is kept to judge by
# At 8 bits, where rounding to nearest is near already: what fitting weights to data may cost.
WIDEST = 256  # inputs to an output that are fitted
FITTED = 128  # items
WORK = 1 << 36  # multiply-accumulates of the float network on them
LOOKS = 1 << 43  # the same times the positions of a layer's output that are looked at
# Whether equalization is worth it: on so many items, and no more work, by the squared error that it leaves.
CHECKED = 64
WORTH = 0.8  # fits differ by 0.3 dB as it is


def static(program: Program, target: Target, calibration: Iterable[Any], options: Options) -> Program:
    """The Program with fake-quantized weights and activations where ``target`` runs in int8.

    Weights and biases are fitted to the data, as ``options.rounding`` says, where that brings the outputs
    nearer to float.
    """
    rounded = round_to_nearest(program, target, calibration, options)
    return round_biases(fitted(program, rounded, calibration, options))


def fitted(
    program: Program,
    rounded: Program,
    calibration: Iterable[Any],
    options: Options,
    *,
    thorough: bool = False,
) -> Program:
    """``rounded`` with its weights fitted, where batches not seen come nearer to float ``program``'s so.

    They are by GPTQ, and from there by AdaRound where ``options`` say so.
    """
    if options.rounding == "nearest":
        return within_limits(rounded)
    fits, judged = {}, ITEMS
    if rounded.weight_bits == 8 and not thorough:
        cost = work(program)
        items, positions = max(1, min(FITTED, WORK // cost)), min(POSITIONS, LOOKS // cost)
        fits, judged = {"largest": WIDEST, "items": items, "positions": positions}, -(-items // 4)
    seen = limit(calibration, options.calibration_batches)
    candidates = [gptq(rounded, _to_fit(seen), **fits), within_limits(rounded)]
    if options.rounding == "adaround":
        candidates.insert(0, adaround(candidates[0], rounded, _to_fit(seen), options.seed))
    best = nearest(program, candidates, _held_out(seen), judged)
    return dataclasses.replace(best, unfitted=rounded.module)


def round_to_nearest(
    program: Program, target: Target, calibration: Iterable[Any], options: Options
) -> Program:
    """The Program with ranges from calibration data, and every weight at the nearest of its grid."""
    options.check_patterns(fx.module_names(program.module))
    folded = fold_shuffles(fold_batch_norms(program, options.no_fuse))
    if "product" in target.inputs:
        folded = decompose_attention(folded)
    seen = limit(calibration, options.calibration_batches)
    equalized = equalize(folded, seen, options)
    if equalized is not folded:
        items = max(1, min(CHECKED, WORK // work(folded)))
        few = _first(seen, items)
        with warnings.catch_warnings(action="ignore"):  # they come again with all of the data
            candidates = [_rounded(of, target, few, options) for of in (equalized, folded)]
        best = nearest(folded, candidates, _held_out(seen), -(-items // 4), at_most=WORTH)
        folded = equalized if best is candidates[0] else folded
    return _rounded(folded, target, seen, options)


def _first(batches: Iterable[Any], items: int) -> list[Any]:
    """As many batches as hold so many items, or all."""
    taken: list[Any] = []
    for batch in batches:
        taken.append(batch)
        items -= len(split(batch)[0][0])
        if items <= 0:
            break
    return taken


def _rounded(folded: Program, target: Target, calibration: Iterable[Any], options: Options) -> Program:
    """The Program with its quantizers, as it is but for them."""
    module = fx.copy(folded.module)
    placement = place_static(module, target, options)
    nodes = {node.name: node for node in module.graph.nodes}

    # Moved values stay on the grid of where they were made, so that quantizing them again changes nothing.
    def origin(source: Node) -> str:
        return before_moves(source).name

    observed = {(origin(nodes[edge.source]), edge.scheme) for edge in placement.edges}
    parameters = observe(
        observable(dataclasses.replace(folded, module=module), {name for name, _ in observed}),
        observed,
        calibration,
        options.ranges,
        shared=shared_grids(module, placement),
    )

    def behind(source: Node, scheme: Scheme) -> Node:
        scale, zero_point = parameters[origin(source), scheme]
        if not (target.zero_in_middle or scheme.symmetric) and scheme.bits == 8:
            scale, zero_point = off_middle(scale, zero_point, scheme)
        return insert_activation(module, source, scale, zero_point, scheme)

    insert_quantizers(module, placement, target, options, behind)
    make_room(module)
    return dataclasses.replace(
        folded,
        module=module,
        method="static",
        target=target.name,
        processor=target.processor,
        skip=options.skip,
        weight_bits=options.weight_bits,
        activation_bits=options.activation_bits,
    )


def _to_fit(batches: Iterable[Any]) -> Iterator[Any]:
    """Every batch but those held out."""
    return (batch for number, batch in enumerate(batches) if number % HELD_OUT != HELD_OUT - 1)


def _held_out(batches: Iterable[Any]) -> Iterator[Any]:
    """Every batch that was not fitted to, or the first one where there are none."""
    held = list(itertools.islice(batches, HELD_OUT - 1, HELD_OUT))
    return itertools.islice(batches, *((HELD_OUT - 1, None, HELD_OUT) if held else (1,)))
