"""Written out: settings of operators that engines get wrong or lack, in operators that they know."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import arguments_of, inserted
from zeropoint.graph.operators import aten, weighted


def write_out(graph: Graph) -> None:
    """Replaces such operators, in place; what they compute stays."""
    for node in list(graph.nodes):
        if node.target in _WRITTEN and fx.is_float(node):
            with graph.inserting_before(node):
                made = _WRITTEN[node.target](node)
            if made is not None:
                node.replace_all_uses_with(made)
                graph.erase_node(node)


def _mean_of_windows(node: Node) -> Node | None:
    """Average pooling with a divisor of its own, or with windows that reach beyond the padding.

    PyTorch divides by a window's places up to the end of the padding. OpenVINO counts them otherwise, and
    ONNX Runtime's integer kernel all of the window. With zeros beside the image these are places of it.
    """
    given = arguments_of(node)
    source, kernel = given["self"], list(given["kernel_size"])
    count = len(kernel)
    stride = list(given["stride"]) or kernel
    padding, stride, kernel = (list(one) * (count // len(one)) for one in (given["padding"], stride, kernel))
    divisor, is_beyond = given.get("divisor_override"), given["ceil_mode"]
    if divisor is None and not (is_beyond and given["count_include_pad"]):
        return None
    sizes, outputs = (one.meta["val"].shape[-count:] for one in (source, node))
    is_padded = is_beyond and (divisor is not None or any(padding))
    if is_padded and any(isinstance(size, torch.SymInt) for size in sizes):
        return None
    ends = list(padding)
    if divisor is not None and is_beyond:  # whole windows
        reached = [(n - 1) * step + width for n, step, width in zip(outputs, stride, kernel, strict=True)]
        ends = [max(end - size - one, 0) for end, size, one in zip(reached, sizes, padding, strict=True)]
        is_beyond = False
    if any(padding) or any(ends):
        both = [size for pair in zip(padding[::-1], ends[::-1], strict=True) for size in pair]
        source = inserted(node, aten.constant_pad_nd.default, source, both, 0.0)
    pooled = inserted(node, node.target, source, kernel, stride, [0] * count, is_beyond, not is_beyond)
    if is_padded:  # windows that begin in the padding at the end are left out
        for axis, size in enumerate(outputs, -count):
            if pooled.meta["val"].shape[axis] != size:
                pooled = inserted(node, aten.slice.Tensor, pooled, axis, 0, int(size))
    return pooled if divisor is None else inserted(node, aten.mul.Tensor, pooled, math.prod(kernel) / divisor)


def _sum_at_indices(node: Node) -> Node | None:
    """A sum or mean of what indices point to, as OpenVINO has none and ONNX no mean."""
    given = arguments_of(node)
    source, axis, indices, values = (given[name] for name in ("self", "dim", "index", "src"))
    if given["reduce"] not in ("sum", "mean"):
        return None

    def added(to: Node, what: Node) -> Node:
        return inserted(node, aten.scatter_add.default, to, axis, indices, what)

    ones = inserted(node, aten.ones_like.default, values)
    if given["include_self"]:
        sums = added(source, values)
        if given["reduce"] == "sum":
            return sums
        return inserted(
            node, aten.div.Tensor, sums, added(inserted(node, aten.ones_like.default, source), ones)
        )
    zeros = inserted(node, aten.zeros_like.default, source)
    result, counts = added(zeros, values), added(zeros, ones)
    if given["reduce"] == "mean":
        result = inserted(node, aten.div.Tensor, result, inserted(node, aten.clamp.default, counts, 1.0))
    return inserted(node, aten.where.self, inserted(node, aten.gt.Scalar, counts, 0), result, source)


def add_batch_axes(graph: Graph) -> None:
    """Gives layers of one item without a batch, as a convolution of (C, H, W), a batch of one, in place.

    So passes and engines find channels where they are in a batch.
    """
    for node in list(graph.nodes):
        description = weighted(node)
        if description is None or node.kwargs or node.target is aten.matmul.default:
            continue
        source, weight = (node.args[place] for place in (description.input, description.weight))
        wanted = 2 if description.family == "linear" else weight.meta["val"].dim()
        if source.meta["val"].dim() != wanted - 1:
            continue
        with graph.inserting_before(node):
            arguments = list(node.args)
            arguments[description.input] = inserted(node, aten.unsqueeze.default, source, 0)
            made = inserted(node, aten.squeeze.dim, inserted(node, node.target, *arguments), 0)
        node.replace_all_uses_with(made)
        graph.erase_node(node)


_WRITTEN: dict[Any, Callable[[Node], Node | None]] = {
    aten.avg_pool1d.default: _mean_of_windows,
    aten.avg_pool2d.default: _mean_of_windows,
    aten.avg_pool3d.default: _mean_of_windows,
    aten.scatter_reduce.two: _sum_at_indices,
}
