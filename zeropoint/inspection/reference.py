"""The float Program that a quantized one was made from, its layers as they are found there."""

import glob
import math
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor
from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import aten, bias_of, weighted
from zeropoint.graph.program import Program
from zeropoint.inspection.facts import Key, keys
from zeropoint.passes.fold import fold_batch_norms
from zeropoint.passes.shuffles import fold_shuffles


class Reference:
    """The float Program of a quantized one: batch norms folded, channels in the order they have there."""

    def __init__(self, program: Program, nodes: list[Node], reorders: bool) -> None:
        def norms_of(among: Iterable[Node]) -> list[Node]:
            return [node for node in among if node.target is aten.batch_norm.default]

        kept = {fx.module_name(node) for node in norms_of(nodes)}
        before = norms_of(program.module.graph.nodes)
        gone = [node for node in before if fx.module_name(node) not in kept]
        folded = fold_batch_norms(program, tuple(map(glob.escape, sorted(kept)))) if gone else program
        if reorders:
            folded = fold_shuffles(folded)
        self.module = folded.module
        self.tensors = {str(node.target): node for node in self.module.graph.find_nodes(op="get_attr")}
        called = [node for node in self.module.graph.nodes if node.op == "call_function"]
        keyed = zip(node_keys(called), called, strict=True)
        self.layers = {key: node for key, node in keyed if weighted(node)}
        of_node = {node.name: key for key, node in self.layers.items()}  # folding keeps the names of nodes
        left = {fx.module_name(node) for node in norms_of(self.module.graph.nodes)}
        self.norms = {
            of_node[source.name]: fx.module_name(norm)
            for norm in gone
            if fx.module_name(norm) not in left and (source := cast(Node, norm.args[0])).name in of_node
        }

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


def node_keys(nodes: list[Node]) -> Iterator[Key]:
    """The keys of the layers of these nodes."""
    return keys((fx.module_name(node), str(node.target)) for node in nodes)
