"""Static quantization: integer weights and activations, with ranges from calibration data."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from torch.fx import Node

from zeropoint.data.batches import Loader, items_of, split
from zeropoint.data.held_out import divided
from zeropoint.graph import edits as fx
from zeropoint.graph.macs import work
from zeropoint.graph.moves import before_moves
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import insert_activation
from zeropoint.methods.common import fold, keep_within_limits, quantized, round_biases
from zeropoint.methods.method import Job, run, step
from zeropoint.numerics.scheme import Scheme, off_middle
from zeropoint.passes.adaround import adaround
from zeropoint.passes.attention import decompose_attention
from zeropoint.passes.bfloat16 import observable
from zeropoint.passes.equalize import equalize
from zeropoint.passes.gptq import gptq
from zeropoint.passes.insertion import insert_quantizers
from zeropoint.passes.integer_bias import make_room
from zeropoint.passes.moments import POSITIONS
from zeropoint.passes.nearest import ITEMS, nearest
from zeropoint.passes.noise_budget import (
    GLANCE,
    WIDE,
    is_quieter,
    noise_of_activations,
    spare_edges,
    widened,
    with_float_sums,
    without_loud,
)
from zeropoint.passes.observe import Parameters, Ranges
from zeropoint.passes.pairs import within_limits
from zeropoint.passes.shuffles import fold_shuffles
from zeropoint.passes.silu import decompose_silu
from zeropoint.targets.options import Options
from zeropoint.targets.placement import Placement, place_static, shared_edges, shared_grids

# Limits of fitting 8-bit weights to data: rounding them to nearest is almost as accurate.
WIDEST = 256  # inputs of an output; layers with more are not fitted
FITTED = 128  # items
WORK = 1 << 36  # multiply-accumulates of the float network on them
LOOKS = 1 << 43  # the same, times the positions of a layer's output that are read
# Equalization is tried before fitting, on this many items and WORK at most: the squared error that remains
# decides.
CHECKED = 64
# Fits of ``static-best``, of which the best is taken: MobileNetV2 at W4A8 has 12.4 to 15.3 dB over 16 orders
# of the same calibration images (Intel Xeon with VNNI, November 2026).
FITS = 4
# Of fewer than 8 bits a trial may mislead, and less than this share of the estimated noise is enough: with
# 0.34 of it, MobileNetV2 at W4A4 loses 0.1 dB when tried and gains 1.5 dB in the end (AMD EPYC with AVX2,
# November 2026).
CERTAIN = 0.5
WORTH = 0.8  # of the error without equalization, at most: fits differ by 0.3 dB by chance
# Times a value's own step size: up to here it shares the coarser grid of a concatenation with all readers.
ALIKE = 2.0
UNLIKE = 8.0  # three bits; from here every value that adds LOUD noise is taken to drown the outputs
# Of the noise of all activations: elsewhere a value that adds less does not.
MOST = 0.25


@step()
def undo_shuffles(program: Program, job: Job) -> Program:
    """Channel shuffles become part of the layers around them."""
    return fold_shuffles(program)


@step()
def take_attention_apart(program: Program, job: Job) -> Program:
    """Attention becomes products and a softmax, for targets that multiply activations in int8."""
    return decompose_attention(program) if "product" in job.target.inputs else program


@step()
def take_silu_apart(program: Program, job: Job) -> Program:
    """SiLU becomes a product with a sigmoid, for targets that multiply by it in int8."""
    return decompose_silu(program) if "mul" in job.target.inputs else program


@step("calibration", integers=("weights", "activations"))
def place_quantizers(program: Program, job: Job) -> Program:
    """Quantizers with ranges from calibration data, and every weight at the nearest of its grid.

    On the equalized network, where that has far less error when tried or, of few bits, by the estimate.
    """
    seen, judged = job.calibration_batches, []
    equalized = equalize(program, seen, job.options, multiplies_free=job.target.multiplies_free)
    has_few_bits = min(job.options.weight_bits, job.options.activation_bits) < 8
    is_certain = has_few_bits and equalized.remaining < CERTAIN
    chosen = _placed(equalized.program if is_certain else program, job)
    if equalized.program is not program and not is_certain:
        items = max(1, min(CHECKED, WORK // work(job.float32)))
        judged, both = _first(seen, items), (_placed(equalized.program, job), chosen)
        for each in both:
            each.ranges.see(judged)
        candidates = [each.quantized(job) for each in both]
        _, held_out = divided(seen, by_item=program.dynamic_batch)
        best = nearest(program, candidates, held_out, -(-items // 4), at_most=WORTH)
        chosen = both[0] if best is candidates[0] else chosen
    chosen.ranges.see(itertools.islice(seen, len(judged), None), first=len(judged))
    rounded = chosen.quantized(job)
    chosen.ranges.warn_of_little()
    return _within_noise_budget(chosen, rounded, job)


def _within_noise_budget(chosen: "_Placed", rounded: Program, job: Job) -> Program:
    """The Program ``rounded`` as ``chosen``, or with more bits, or float, where the outputs need it."""
    seen = job.calibration_batches
    has_choice = chosen.floating or spare_edges(chosen.program, chosen.placement, job.target)
    noise = noise_of_activations(rounded, seen, GLANCE) if has_choice else {}
    if chosen.floating is not None:
        quiet = dataclasses.replace(chosen, placement=chosen.floating)
        candidate = quiet.quantized(job)
        left = noise_of_activations(candidate, seen, GLANCE)
        if is_quieter(left, noise):
            chosen, rounded, noise = quiet, candidate, left
    wide = widened(chosen.program, chosen.placement, rounded, seen, job.options)
    share = 0.0 if chosen.joins_unlike() else MOST
    wide = without_loud(chosen.program, wide, noise, job.target, share)
    if wide == chosen.placement:
        return rounded
    return dataclasses.replace(chosen, placement=wide).quantized(job)


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A float Program, where its quantizers go, and the ranges of their values.

    ``floating`` is the placement with sums in float, where the target allows a choice and that differs.
    """

    program: Program
    placement: Placement
    floating: Placement | None
    ranges: Ranges

    def joins_unlike(self) -> bool:
        """Whether a concatenation brings a value to a grid that is UNLIKE times as coarse as its own."""
        grids, parameters = self._parameters()
        shared = shared_edges(self.program.module, self.placement, grids, lambda *_: True)
        nodes = {node.name: node for node in self.program.module.graph.nodes}
        is_alike = _within(UNLIKE, parameters)
        return not all(
            is_alike(_origin(nodes[edge.source]), grid, edge.scheme) for edge, grid in shared.items()
        )

    def quantized(self, job: Job) -> Program:
        """The Program with the quantizers, on the ranges seen so far."""
        module = fx.copy(self.program.module)
        grids, parameters = self._parameters()

        def quantizer_after(source: Node, scheme: Scheme, grid: str) -> Node:
            scale, zero_point = parameters[grid or _origin(source), scheme]
            if not (job.target.zero_in_middle or scheme.symmetric) and scheme.bits == 8:
                scale, zero_point = off_middle(scale, zero_point, scheme)
            return insert_activation(module, source, scale, zero_point, scheme)

        is_alike = _within(ALIKE, parameters)
        shared = shared_edges(self.program.module, self.placement, grids, is_alike)
        insert_quantizers(module, self.placement, job.target, job.options, quantizer_after, shared)
        make_room(module)
        return quantized(self.program, module, "static", self.placement, job)

    def _parameters(self) -> tuple[dict[str, str], Parameters]:
        """The grids that concatenations share, by source, and what the ranges give."""
        grids = shared_grids(self.program.module, self.placement)
        return grids, self.ranges.parameters(grids)


def _within(times: float, parameters: Parameters) -> Callable[[str, str, Scheme], bool]:
    """A function that says whether a grid is at most so many ``times`` as coarse as a source's own."""

    def is_alike(source: str, grid: str, scheme: Scheme) -> bool:
        own, shared = (float(parameters[name, scheme][0]) for name in (source, grid))
        return shared <= times * own

    return is_alike


def _placed(program: Program, job: Job) -> _Placed:
    placement = place_static(program.module, job.target, job.options)
    floating = with_float_sums(program.module, placement, job.target, job.options)
    nodes = {node.name: node for node in program.module.graph.nodes}
    edges = placement.edges | (floating.edges if floating else frozenset())
    observed = {
        (_origin(nodes[edge.source]), dataclasses.replace(edge.scheme, bits=bits))
        for edge in edges
        for bits in {edge.scheme.bits, max(WIDE, edge.scheme.bits)}
    }
    module = observable(program, {name for name, _ in observed})
    ranges = Ranges(module, observed, job.options.ranges, together=program.dynamic_batch)
    return _Placed(program, placement, floating, ranges)


def _origin(source: Node) -> str:
    """Where a value was made: moved, it stays on that grid, so that quantizing it again changes nothing."""
    return before_moves(source).name


@step("calibration")
def fit(program: Program, job: Job) -> Program:
    """Weights and biases are fitted to the data, as ``options.rounding`` says."""
    return fitted(program, job.float32, job.calibration_batches, job.options)


def fitted(
    rounded: Program, float32: Program, calibration: Loader, options: Options, *, thorough: bool = False
) -> Program:
    """``rounded`` with its weights fitted, where items that are held out come nearer to float so.

    They are by GPTQ, and from there by AdaRound where the options say so.
    """
    fits, judged = {}, ITEMS
    if options.rounding == "nearest":
        return within_limits(rounded)
    if rounded.weight_bits == 8 and not thorough:
        cost = work(float32)
        items, positions = max(1, min(FITTED, WORK // cost)), min(POSITIONS, LOOKS // cost)
        fits, judged = {"largest": WIDEST, "items": items, "positions": positions}, -(-items // 4)
    to_fit, held_out = divided(calibration, by_item=rounded.dynamic_batch)
    candidates = [gptq(rounded, to_fit, **fits, seed=seed) for seed in range(FITS if thorough else 1)]
    candidates.append(within_limits(rounded))
    if options.rounding == "adaround":
        candidates.insert(0, adaround(candidates[0], rounded, to_fit, options.seed))
    best = nearest(float32, candidates, held_out, judged)
    return dataclasses.replace(best, unfitted=rounded.module)


PREPARED = (fold, undo_shuffles, take_attention_apart, take_silu_apart)
NEAREST = (*PREPARED, place_quantizers)
STATIC = (*NEAREST, fit, round_biases, keep_within_limits)


def placement(program: Program, job: Job) -> str:
    """A digest of the graph that ``static`` quantizes for a target, and of the quantizers that it puts there.

    Targets of the same digest can share a Program.
    """
    prepared = run(PREPARED, program, job)
    placed = place_static(prepared.module, job.target, job.options)
    facts = (
        prepared.module.code,
        sorted(map(repr, placed.edges)),
        sorted(map(repr, placed.weights)),
        job.target.zero_in_middle,
        job.target.floats_sums,
        job.target.multiplies_free,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _first(batches: Iterable[Any], items: int) -> list[Any]:
    """The first batches that hold this many items together, or all."""
    taken: list[Any] = []
    for batch in batches:
        taken.append(batch)
        items -= items_of(split(batch)[0])
        if items <= 0:
            break
    return taken
