"""Noise budget: what the quantizer of each activation adds to the noise of the outputs, and where bits pay.

Few values make most of the noise of a network whose activations have few bits: in MobileNetV2 at W4A4 the
outputs of the first two layers make 43% of it, and enter 3% of its multiply-accumulates. Engines on CPUs hold
4 bits in a byte, so that 8 take no longer there. Published results of few bits keep 8 for some layers by
their place (Li et al. 2021, "BRECQ", arXiv 2102.05426, section 4.1: the first and the last, and the input of
the second); here it is the noise that chooses them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.macs import multiply_accumulates
from zeropoint.graph.moves import MOVES, before_moves, moved_from
from zeropoint.graph.operators import FAKE_QUANTIZE, aten, family, weighted
from zeropoint.graph.program import Decision, Program
from zeropoint.graph.quantizers import Quantizer, fake_quantize, quantizers
from zeropoint.passes.sensitivity import mean_of_slopes
from zeropoint.targets.options import Options
from zeropoint.targets.placement import Edge, Placement, place_static
from zeropoint.targets.recipe import matches
from zeropoint.targets.target import Target

RULE = "noise budget"  # as decisions of placement name it
TOO_LOUD = "it adds most noise"
WIDE = 8  # bits
LOUD = 1e-3  # of the outputs' mean square: a value that adds more leaves less than 30 dB by itself
# Of the noise of all activations: sums become float where no more is left without theirs, which is 2 dB.
QUIETER = 0.63
GLANCE = 4  # items that are looked at to tell
LEAST = 0.01  # share of the noise of all activations: less is not worth more bits


def widened(
    program: Program, placement: Placement, rounded: Program, calibration: Iterable[Any], options: Options
) -> Placement:
    """The placement with 8-bit inputs where fewer bits add the most noise, and a decision for each.

    They are read by a share ``options.eight_bit_share`` of the multiply-accumulates of the float ``program``,
    at most. Inputs of layers to which a row of the recipe gives bits stay. ``rounded`` is the program with
    the quantizers as placed.
    """
    nodes = {node.name: node for node in program.module.graph.nodes}
    own = [row.layers for row in options.recipe if row.activation_bits]
    few = {
        edge: before_moves(nodes[edge.source]).name
        for edge in placement.edges
        if edge.scheme.bits < WIDE and not matches(fx.module_name(nodes[edge.user]), own)
    }
    if not few or not options.eight_bit_share:
        return placement
    counts, cost = multiply_accumulates(program), defaultdict[str, float](float)
    total = max(1, sum(counts.values()))
    for edge, origin in few.items():
        cost[origin] += counts.get(edge.user, 0) / total
    noise = _by_origin(noise_of_activations(rounded, calibration))
    chosen = worth_more_bits(noise, cost, options.eight_bit_share)
    wide = {edge: _wide(edge) for edge, origin in few.items() if origin in chosen}
    decisions = tuple(Decision(RULE, user, None) for user in sorted({edge.user for edge in wide}))
    edges = frozenset(wide.get(edge, edge) for edge in placement.edges)
    return replace(placement, edges=edges, decisions=placement.decisions + decisions)


def without_loud(
    program: Program, placement: Placement, noise: Mapping[Quantizer, float], target: Target, share: float
) -> Placement:
    """The placement without 8-bit values that nothing multiplies, where one of them drowns the outputs.

    Such a value adds LOUD noise, and at least a ``share`` of the noise of all activations. All of them only
    spare a sum or a concatenation from computing in float. A class token beside the tokens of an image is
    lost on their common grid: XCiT has 5 dB with it. ``noise`` is that of the quantizers as placed.
    """
    nodes = {node.name: node for node in program.module.graph.nodes}
    added, least = _by_origin(noise), max(LOUD, share * sum(noise.values()))
    spare = spare_edges(program, placement, target)
    loud = {edge for edge in spare if added[before_moves(nodes[edge.source]).name] > least}
    joins = {edge.user for edge in loud if family(nodes[edge.user]) == "cat"}
    loud |= {edge for edge in spare if edge.user in joins}  # one float operand has the others converted
    decisions = tuple(Decision(RULE, user, TOO_LOUD) for user in sorted({e.user for e in loud}))
    return replace(placement, edges=placement.edges - loud, decisions=placement.decisions + decisions)


def with_float_sums(
    module: GraphModule, placement: Placement, target: Target, options: Options
) -> Placement | None:
    """The placement with sums in float; None if it is the same, or float sums are slow on the target.

    Only for 8-bit weights: of fewer bits the noise of the weights is not known before they are fitted.
    """
    if not target.floats_sums or options.weight_bits < WIDE:
        return None
    floating = place_static(module, replace(target, inputs=target.inputs - {"add"}), options)
    if floating.edges == placement.edges:
        return None
    before = {(one.rule, one.node): one.reason for one in placement.decisions}
    decisions = tuple(
        replace(one, reason=before[one.rule, one.node] or TOO_LOUD) if one.reason else one
        for one in floating.decisions
    )
    return replace(floating, decisions=decisions)


def is_quieter(candidate: Mapping[Quantizer, float], other: Mapping[Quantizer, float]) -> bool:
    """Whether the activations of a candidate make QUIETER of the noise that those of another make, at most.

    False if it is not known.
    """
    return 0 < sum(candidate.values()) <= QUIETER * sum(other.values())


def spare_edges(program: Program, placement: Placement, target: Target) -> set[Edge]:
    """The edges whose values nothing multiplies: in float, what made them still runs in integers."""
    nodes = {node.name: node for node in program.module.graph.nodes}
    return {
        edge
        for edge in placement.edges
        if not _multiplies(nodes[edge.user]) and not _rounds(before_moves(nodes[edge.source]), target)
    }


def _by_origin(noise: Mapping[Quantizer, float]) -> defaultdict[str, float]:
    """What the quantizers of each value add together, by the name of the node that made it, before moves."""
    total = defaultdict[str, float](float)
    for one, added in noise.items():
        total[before_moves(one.source).name] += added
    return total


def _multiplies(node: Node) -> bool:
    """Whether an operator multiplies what it reads, or what reads the value that it moves."""
    if node.target in MOVES:
        return any(map(_multiplies, node.users))
    return weighted(node) is not None or family(node) == "product"


def _rounds(node: Node, target: Target) -> bool:
    """Whether an engine runs what makes a value in integers only if the value is rounded."""
    layer = cast(Node, node.args[0]) if family(node) in target.fused else node
    return weighted(layer) is not None and family(layer) in target.outputs


def _wide(edge: Edge) -> Edge:
    return replace(edge, scheme=replace(edge.scheme, bits=WIDE))


def noise_of_activations(
    program: Program, calibration: Iterable[Any], items: int | None = None
) -> dict[Quantizer, float]:
    """For each quantizer of an activation, what it adds to the noise of the outputs, to first order.

    In shares of the mean square of each output. The errors of rounding are those of the quantizer, clipping
    included, on values of the float network, and count as independent of one another. Looks at as many
    ``items`` as ``mean_of_slopes``.
    """
    every = {one.node: one for one in quantizers(program.module) if not one.is_weight}
    rounding = {one.node.name: one for one in every.values() if _rounded_before(one) not in every}
    unrounded = replace(program, module=fx.copy(program.module))
    for node in list(unrounded.module.graph.nodes):
        if node.name in rounding:  # its value stays, with a slope of its own
            node.target, node.args = aten.alias.default, node.args[:1]
        elif node.target in FAKE_QUANTIZE:
            node.replace_all_uses_with(node.args[0])
    fx.remove_unused(unrounded.module)

    def noise(name: str, value: Tensor, slope: Tensor) -> Tensor:
        error = fake_quantize(value, *_arguments(rounding[name])) - value
        return (slope * error).square().sum(dtype=torch.float64)

    found = mean_of_slopes(unrounded, rounding.keys(), calibration, noise, items)
    return {rounding[name]: float(total) for name, total in found.items()}


def _rounded_before(quantizer: Quantizer) -> Node | None:
    """The quantizer that rounded its values to the same grid before they were moved; it adds no noise."""
    value = quantizer.source
    while moved := moved_from(value):
        value, _ = moved
    return value if value.args[1:] == quantizer.node.args[1:] else None


def _arguments(quantizer: Quantizer) -> tuple[float, int, int, int]:
    scheme = quantizer.scheme
    return float(quantizer.scale), int(quantizer.zero_point), scheme.qmin, scheme.qmax


def worth_more_bits(noise: Mapping[str, float], cost: Mapping[str, float], budget: float) -> set[str]:
    """Of values by name, those where more bits pay most: of the most ``noise`` for their ``cost``.

    Their costs are at most ``budget`` together. A value of less than LEAST of all noise is not worth any.
    """
    least, chosen = LEAST * sum(noise.values()), set()
    worthy = [name for name in cost if noise.get(name, 0.0) > least]
    for name in sorted(worthy, key=lambda name: noise[name] / max(cost[name], 1e-12), reverse=True):
        if cost[name] <= budget:
            budget -= cost[name]
            chosen.add(name)
    return chosen
