"""Bags of embeddings as the look-ups and reductions that exporters know."""

from typing import Any

import torch
from torch.fx import GraphModule, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

from zeropoint.graph.operators import BAGS, aten

FAR = 1 << 62  # after the last index


def take_bags_apart(module: GraphModule) -> None:
    """Puts an embedding, and a sum, mean or maximum over its rows, in the place of each bag, in place.

    Bags of one size are the rows of a matrix of indices. Others are found by comparing all indices with all
    offsets, which takes their product in memory.
    """
    for node in [node for node in module.graph.nodes if node.target in BAGS]:
        with module.graph.inserting_before(node):
            value = _bags(node).node
        for user in list(node.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(value)
            module.graph.erase_node(user)
        module.graph.erase_node(node)


def _bags(node: Node) -> Any:
    tracer = GraphAppendingTracer(node.graph)

    def proxy(source: Any) -> Any:
        return None if source is None else Proxy(source, tracer)

    defaults = (False, 0, False, None, False, None)
    given: tuple[Any, ...] = (*node.args[3:], *defaults[len(node.args) - 3 :])
    _, mode, _, weights, has_end, padding = given
    indices, offsets = node.args[1:3]
    matrix = _matrix(indices, offsets)
    weights = proxy(weights)
    if matrix is not None:
        indices = proxy(matrix)
        weights = weights if weights is None else aten.view_as.default(weights, indices)
        # All of them. Of a constant OpenVINO finds that a maximum hides nothing, and takes it before the rows
        # are multiplied by their scales: 9 dB.
        taken = aten.ge.Scalar(indices, 0)
    else:
        indices = aten.unsqueeze.default(proxy(indices), 0)
        weights = weights if weights is None else aten.unsqueeze.default(weights, 0)
        taken = _members(indices, proxy(offsets), has_end)
    if padding is not None:
        taken = aten.logical_and.default(taken, aten.ne.Scalar(indices, padding))
    rows = aten.embedding.default(proxy(node.args[0]), indices)  # (B or 1, L, D)
    return (_maximum if mode == 2 else _sum)(rows, taken, weights, is_mean=mode == 1)


def _matrix(indices: Any, offsets: Any) -> Node | None:
    """The matrix of indices whose rows are the bags; None for bags of offsets of their own."""
    flat = indices.target in (aten.reshape.default, aten.view.default) and list(indices.args[1]) == [-1]
    if not flat or offsets.target is not aten.arange.start_step:
        return None
    matrix: Node = indices.args[0]
    shape = matrix.meta["val"].shape
    return matrix if len(shape) == 2 and offsets.args[2] == shape[1] else None


def _members(indices: Any, offsets: Any, has_end: bool) -> Any:
    """Whether each bag holds each index, (B, L)."""
    places = aten.sub.Tensor(aten.cumsum.default(aten.ones_like.default(indices), 1), 1)
    end = aten.slice.Tensor(offsets, 0, 1)
    if has_end:
        start = aten.slice.Tensor(offsets, 0, 0, -1)
    else:
        start, far = offsets, aten.add.Tensor(aten.mul.Tensor(aten.slice.Tensor(offsets, 0, 0, 1), 0), FAR)
        end = aten.cat.default([end, far])
    return aten.logical_and.default(
        aten.ge.Tensor(places, aten.unsqueeze.default(start, 1)),
        aten.lt.Tensor(places, aten.unsqueeze.default(end, 1)),
    )


def _sum(rows: Any, taken: Any, weights: Any, *, is_mean: bool) -> Any:
    """The sum or the mean of the rows of each bag, as a product with what they count."""
    counts = aten._to_copy.default(taken, dtype=torch.float32)
    shares = counts if weights is None else aten.mul.Tensor(counts, weights)
    if is_mean:
        shares = aten.div.Tensor(shares, aten.clamp_min.default(aten.sum.dim_IntList(counts, [1], True), 1.0))
    return aten.sum.dim_IntList(aten.mul.Tensor(rows, aten.unsqueeze.default(shares, 2)), [1])


def _maximum(rows: Any, taken: Any, weights: Any, *, is_mean: bool) -> Any:
    """The largest value of the rows of each bag, zero for an empty one."""
    low = aten.masked_fill.Scalar(
        rows, aten.logical_not.default(aten.unsqueeze.default(taken, 2)), -torch.inf
    )
    largest = aten.amax.default(low, [1])
    empty = aten.logical_not.default(aten.any.dim(taken, 1, True))
    return aten.masked_fill.Scalar(largest, empty, 0.0)
