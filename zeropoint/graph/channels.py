"""Channels: which channel of one value is which of another, through joins, splits and element-wise ones."""

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import SPLITS, aten


@dataclass(frozen=True)
class Channels:
    """The channels of a value along ``axis``: equal ``names`` (int64) of two values mean the same channel."""

    axis: int
    names: Tensor


Passes = Callable[[Node, Sequence[int | None]], int | None]
"""The axis of an operator's channels, given those of its operands; None if they do not keep their places."""


def trace(
    module: GraphModule,
    makes: Callable[[Node], int | None],
    passes: Passes,
    made_by: Callable[[Node], Hashable] = lambda node: node,
) -> dict[Node, Channels]:
    """The channels of every value that has some, in the order of the graph.

    ``makes`` gives the axis of the new channels that a node makes, None if it makes none; nodes of which
    ``made_by`` gives the same make the same ones. ``passes`` is asked of other operators. Channels that are
    added to each other, or otherwise combined one by one, are the same.
    """
    found: dict[Node, Channels] = {}
    parents: list[int] = []
    made: dict[Hashable, Tensor] = {}

    def root(name: int) -> int:
        while parents[name] != name:
            parents[name] = name = parents[parents[name]]
        return name

    for node in module.graph.nodes:
        operands = [operand for operand in node.all_input_nodes if fx.is_float(operand)]
        axes = [found[one].axis if one in found else None for one in operands]
        if (axis := makes(node)) is not None:
            if (maker := made_by(node)) not in made:
                first, width = len(parents), int(fx.item_sizes(node)[axis])
                parents += range(first, first + width)
                made[maker] = torch.arange(first, first + width)
            found[node] = Channels(axis, made[maker])
        elif moved := _moved(node, found):
            found[node] = moved
        elif (axis := passes(node, axes)) is not None:
            known = [found[one].names.tolist() for one in operands if one in found]
            for names in known[1:]:
                for one, other in zip(known[0], names, strict=True):
                    parents[root(other)] = root(one)
            found[node] = Channels(axis, torch.tensor(known[0]))
    return {
        node: Channels(of.axis, torch.tensor([root(name) for name in of.names.tolist()]))
        for node, of in found.items()
    }


def _moved(node: Node, found: dict[Node, Channels]) -> Channels | None:
    """The channels of a concatenation along them, or of a part of a split."""
    if node.target is aten.cat.default:
        parts: Any = node.args[0]
        rank = node.meta["val"].dim()
        axis = (node.args[1] if len(node.args) > 1 else 0) % rank
        if all(part in found and found[part].axis == axis for part in parts):
            return Channels(axis, torch.cat([found[part].names for part in parts]))
    split: Any = node.args[0] if node.target is operator.getitem else None
    if split is not None and split.target in SPLITS - {aten.unbind.int} and split.args[0] in found:
        whole, place = found[split.args[0]], node.args[1]
        axis = (split.args[2] if len(split.args) > 2 else 0) % node.meta["val"].dim()
        if axis == whole.axis:
            first = sum(part.shape[axis] for part in split.meta["val"][:place])
            return Channels(axis, whole.names[first : first + node.meta["val"].shape[axis]])
    return None
