"""Moves: operators that only move values about, so that what they give lies on the grid of what they take."""

import operator
from typing import cast

from torch.fx import Node

from zeropoint.graph.operators import FAKE_QUANTIZE, SPLITS, TRANSPARENT

MOVES = TRANSPARENT | SPLITS | {operator.getitem}


def moved_from(node: Node) -> tuple[Node, Node] | None:
    """The node whose values ``node`` only moves, and what reads them for it; None if it does more."""
    if node.target in TRANSPARENT:
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
