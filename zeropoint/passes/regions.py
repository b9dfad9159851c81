"""Regions: values whose channels can be scaled together, and the layers that make and read them."""

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.channels import Channels, trace
from zeropoint.graph.operators import SPLITS, WEIGHTED, aten, bias_of, facts, family, weight_of, weighted
from zeropoint.passes.rounding_noise import is_convolution
from zeropoint.passes.scalings import factors_of, is_scaling

CLIPS = {aten.hardtanh.default, aten.clamp.default}


@dataclasses.dataclass
class Region:
    """Values whose channels share grids, what makes them, and what reads them.

    ``places`` are the channels of each value, counted in the region, along its axis in ``axes``.
    """

    width: int
    axes: dict[Node, int]
    places: dict[Node, Tensor]
    makers: list[Node]
    readers: list[Node]
    clips: list[Node]

    def whole(self, of: Node, channels: Tensor) -> Tensor:
        """Non-negative values of a node's channels, as the largest for each channel of the region."""
        empty = torch.zeros(self.width, dtype=torch.float64)
        return empty.scatter_reduce(0, self.places[of], channels.double(), "amax")


def regions_of(module: GraphModule) -> list[Region]:
    """The regions that can be scaled, in graph order: nothing else makes or reads their values."""
    found = trace(module, _made_axis, _passed_axis, factors_of)
    sets: dict[int, set[Node]] = {}  # by channel, the values that share a grid with it, one way or another
    for node, channels in found.items():
        joined = {id(one): one for name in channels.names.tolist() if (one := sets.get(name)) is not None}
        values = {node}.union(*joined.values())
        names = {name for value in values for name in found[value].names.tolist()}
        sets.update(dict.fromkeys(names, values))
    open_ends = {
        operand
        for node in module.graph.nodes
        for operand in node.all_input_nodes
        if operand in found and not _keeps_scale(node, operand, found)
    }
    regions = {id(values): values for values in sets.values()}
    closed = [_region(module, values, found) for values in regions.values() if not values & open_ends]
    return [region for region in closed if region.readers]


def _keeps_scale(node: Node, operand: Node, found: dict[Node, Channels]) -> bool:
    """Whether a node that reads scaled channels can undo the scale, or passes them on."""
    if _reads(node, operand, found[operand].axis):
        return True
    parts = node.users if node.target in SPLITS else [node]
    return all(part in found and not _is_maker(part) for part in parts) and bool(parts)


def _readers(module: GraphModule, values: set[Node], found: dict[Node, Channels]) -> list[Node]:
    return [
        node
        for node in module.graph.nodes
        for operand in node.all_input_nodes
        if operand in values and _reads(node, operand, found[operand].axis)
    ]


def _region(module: GraphModule, values: set[Node], found: dict[Node, Channels]) -> Region:
    ordered = [node for node in found if node in values]
    names = torch.cat([found[node].names for node in ordered]).unique()
    return Region(
        len(names),
        {node: found[node].axis for node in ordered},
        {node: torch.searchsorted(names, found[node].names) for node in ordered},
        [node for node in ordered if _is_maker(node)],
        _readers(module, values, found),
        [node for node in ordered if node.target in CLIPS],
    )


def parameters(node: Node) -> list[Node]:
    """The nodes of a layer's weight, and of its bias where it has one."""
    if is_scaling(node):
        return [cast(Node, node.args[1])]
    description = weighted(node)
    parts = [node.args[description.weight], bias_of(node, description)] if description else node.args[2:4]
    return [part for part in parts if isinstance(part, Node)]


def _is_own(node: Node) -> bool:
    """Whether the layer's parameters are constants that nothing else uses."""
    parts = parameters(node)
    return not node.kwargs and bool(parts) and all(fx.is_stored(part, alone=True) for part in parts)


def _is_maker(node: Node) -> bool:
    """Whether a layer's output channels can be scaled by its parameters."""
    if node.target is aten.layer_norm.default:
        return len(cast(list[int], node.args[1])) == 1 and len(parameters(node)) > 0 and _is_own(node)
    is_layer = bool(weighted(node)) and _is_own(node) and (is_convolution(node) or _is_matrix(node))
    return is_layer or is_scaling(node)


def _made_axis(node: Node) -> int | None:
    """The axis of the output channels of a layer that can be scaled."""
    return output_axis(node) if _is_maker(node) else None


def output_axis(node: Node) -> int:
    """The axis of the output channels of a layer or product."""
    images = is_convolution(node) or (is_scaling(node) and any(map(is_convolution, node.users)))
    return 1 if images else int(node.meta["val"].dim()) - 1


def _is_scaled_alike(layer: Node, operand: Node) -> bool:
    """Whether all layers of a weight that they share read products with the same factors."""
    weight = parameters(layer)[0]
    inputs = [cast(Node, user.args[WEIGHTED[user.target].input]) for user in weight.users if weighted(user)]
    is_alike = all(is_scaling(one) and factors_of(one) is factors_of(operand) for one in inputs)
    return not layer.kwargs and is_alike and len(inputs) == len(weight.users)


def _is_matrix(node: Node) -> bool:
    return WEIGHTED[node.target].family == "linear" and weight_of(node).meta["val"].dim() == 2


def _reads(node: Node, operand: Node, axis: int | None) -> bool:
    """Whether a layer's weight can be scaled along the channels of its input ``operand``."""
    description = weighted(node)
    if not description or node.args[description.input] is not operand:
        return False
    if not (_is_own(node) or _is_scaled_alike(node, operand)):
        return False
    if is_convolution(node):
        return axis == 1
    return _is_matrix(node) and axis == operand.meta["val"].dim() - 1


def _passed_axis(node: Node, axes: Sequence[int | None]) -> int | None:
    """The axis of the node's channels, where it gives scaled ones back scaled alike, each in its place."""
    if node.op != "call_function" or not axes or axes[0] is None:
        return None
    if not isinstance(node.args[0], Node) or not fx.is_float(node):  # a concatenation's list, say
        return None
    axis, shape, new = axes[0], fx.item_sizes(node.args[0]), fx.item_sizes(node)
    if node.target is aten.add.Tensor:
        passes = list(axes) == [axis, axis] and not node.kwargs and new == shape
    elif node.target in CLIPS:
        passes = len(node.args) == 3 and isinstance(node.args[2], int | float) and bool(node.args[1] == 0)
    elif node.target is aten.mean.dim:
        passes = axis == 1 and sorted(i % len(shape) for i in cast(list[int], node.args[1])) == [2, 3]
    elif family(node) == "avg_pool" or node.target is aten.max_pool2d.default:
        passes = axis == 1
    elif facts(node).moves and not facts(node).scales:  # (N, C, 1, 1) as (N, C)
        passes = axis == 1 and new[1:] == shape[1:2] and all(n == 1 for n in shape[2:])
    else:
        passes = facts(node).scales
    return axis if passes else None
