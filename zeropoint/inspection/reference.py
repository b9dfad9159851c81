"""The float Program that a quantized one was made from, its layers as they are found there."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import bias_of, weighted
from zeropoint.graph.program import Program
from zeropoint.inspection.facts import Key, keys
from zeropoint.passes.fold import fold_into_layers
from zeropoint.passes.shuffles import fold_shuffles


class Reference:
    """The float Program of a quantized one: folded as that is, channels in the order they have there.

    ``folded`` has the operators that are part of a layer.
    """

    def __init__(self, program: Program, nodes: list[Node], reorders: bool) -> None:
        kept, module = {_foldable(node) for node in nodes} - {None}, fx.copy(program.module)
        pairs = fold_into_layers(module, lambda node: _foldable(node) in kept)
        if reorders:
            module = fold_shuffles(dataclasses.replace(program, module=module)).module
        self.module = module
        self.tensors = {str(node.target): node for node in module.graph.find_nodes(op="get_attr")}
        called = [node for node in module.graph.nodes if node.op == "call_function"]
        keyed = zip(node_keys(called), called, strict=True)
        self.layers = {key: node for key, node in keyed if weighted(node)}
        of_node = {node.name: key for key, node in self.layers.items()}  # reordering keeps the names of nodes
        self.folded: dict[Key, list[Node]] = {}
        for layer, node in pairs:
            if layer.name in of_node:
                self.folded.setdefault(of_node[layer.name], []).append(node)

    def weight(self, key: Key | str, shape: torch.Size) -> Tensor | None:
        """The float weight of a layer or name in the ``shape`` of the quantized one: rows of groups."""
        if isinstance(key, str):
            stored = self.tensors.get(key)
        else:
            node = self.layers.get(key)
            description = weighted(node) if node is not None else None
            stored = node.args[description.weight] if node is not None and description else None
        if stored is None:
            return None
        tensor = fx.tensor_of(self.module, cast(Node, stored))
        return tensor.reshape(shape) if tensor.numel() == math.prod(shape) else None

    def bias(self, key: Key, shape: torch.Size) -> Tensor | None:
        """The float bias of a layer; zeros if it has none."""
        node = self.layers.get(key)
        description = weighted(node) if node is not None else None
        if node is None or description is None:
            return None
        bias = bias_of(node, description)
        tensor = torch.zeros(shape) if bias is None else fx.tensor_of(self.module, bias)
        return tensor if tensor.shape == shape else None


def _foldable(node: Node) -> tuple[str, ...] | None:
    """What tells an operator that may be folded from others; None for a layer.

    Training changes constants, but not their shapes.
    """
    if weighted(node):
        return None
    arguments: Any = node.args
    constants = [list(part.meta["val"].shape) if fx.is_stored(part) else part for part in arguments]
    return (
        fx.module_name(node),
        str(node.target),
        str([part for part in constants if not isinstance(part, Node)]),
    )


def node_keys(nodes: list[Node]) -> Iterator[Key]:
    """The keys of the layers of these nodes."""
    return keys((fx.module_name(node), str(node.target)) for node in nodes)
