"""Moves: operators that only move values about, so that what they give lies on the grid of what they take."""

import math
import operator
from typing import cast

from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import FAKE_QUANTIZE, SPLITS, TRANSPARENT, aten, family, weighted

SELECTIONS = {aten.select.int, aten.slice.Tensor}
RESHAPES = {
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.view_as.default,
    aten.unflatten.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
}
PART = 1 / 2  # of the elements of a value: what selects so few has a grid of its own
MOVES = TRANSPARENT | SPLITS | {operator.getitem}


def moved_from(node: Node) -> tuple[Node, Node] | None:
    """The node whose values ``node`` only moves, and what reads them for it; None if it does more."""
    if node.target in TRANSPARENT and not is_part(node):
        return cast(Node, node.args[0]), node
    if node.target is operator.getitem and cast(Node, node.args[0]).target in SPLITS:
        split = cast(Node, node.args[0])
        return cast(Node, split.args[0]), split
    return None


def before_moves(node: Node) -> Node:
    """The node whose values ``node`` holds, moved about or quantized: itself if it does neither."""
    while True:
        if node.target in FAKE_QUANTIZE:
            node = cast(Node, node.args[0])
        elif moved := moved_from(node):
            node, _ = moved
        else:
            return node


def axis_before(move: Node, axis: int) -> int | None:
    """The axis of a move's input that is ``axis`` of what it gives; None if no axis is, as a whole."""
    before, after = (node.meta["val"].shape for node in (cast(Node, move.args[0]), move))
    if move.target is aten.permute.default:
        order = cast(list[int], move.args[1])
        return int(order[axis] % len(order))
    if move.target is aten.transpose.int:
        first, second = (cast(int, given) % len(after) for given in move.args[1:3])
        return {first: second, second: first}.get(axis, axis)
    if move.target is aten.contiguous.default:
        return axis
    if move.target in RESHAPES and after[axis] != 1:
        # As many elements behind an axis of the same size: what is stored in this order stays in its places.
        # Free sizes are compared as written, since to compare their values would fix them.
        wanted = f"{after[axis]} {math.prod(after[axis + 1 :])}"
        for number, size in enumerate(before):
            if f"{size} {math.prod(before[number + 1 :])}" == wanted:
                return number
    return None


def is_part(node: Node) -> bool:
    """Whether a node selects a small part, which alone is read of a value, as the last state of many.

    The range of the whole says little of it, and to quantize the whole is for nothing. A convolution's is on
    the grid of the whole all the same: engines round what convolutions make.
    """
    if node.target not in SELECTIONS:
        return False
    whole = _unrounded(cast(Node, node.args[0]))
    readers = [reader for reader in _readers(whole) if reader.op != "output"]
    if not all(user.target in SELECTIONS for user in readers):
        return False
    if sum(map(fx.item_bytes, readers)) > PART * fx.item_bytes(whole):
        return False
    origin = before_moves(whole)
    made_by = [one for one in (origin, *map(_unrounded, origin.all_input_nodes)) if weighted(one)]
    return all(family(one) == "linear" for one in made_by)


def _unrounded(value: Node) -> Node:
    """The value that quantizers rounded to this one, so that placed ones change no answer."""
    while value.target in FAKE_QUANTIZE:
        value = cast(Node, value.args[0])
    return value


def _readers(value: Node) -> list[Node]:
    """What reads a value, quantized or as it is."""
    found = []
    for user in value.users:
        found += _readers(user) if user.target in FAKE_QUANTIZE else [user]
    return found
