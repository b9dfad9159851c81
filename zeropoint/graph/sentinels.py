"""Sentinels: values that a model fills in, such as -inf, which a later maximum or softmax ignores."""

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph.attention import ATTENTION
from zeropoint.graph.constants import constant
from zeropoint.graph.operators import SOFTMAX, TRANSPARENT, aten

_MAXIMA = {
    aten.amax.default, aten.max.default, aten.max.dim, aten.max.other, aten.maximum.default,
    aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default,
    aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default,
    aten.logsumexp.default, *SOFTMAX,
}  # fmt: skip
_MINIMA = {aten.amin.default, aten.min.default, aten.min.dim, aten.min.other, aten.minimum.default}

# Whose output has the values of its inputs, or sums of them.
_SUMS = {aten.add.Tensor, aten.sub.Tensor}
_MERGES = {
    aten.cat.default, aten.where.self, aten.slice_scatter.default, aten.select_scatter.default
}  # fmt: skip
# Where the value is among the arguments, and whether another tensor's values stay beside it.
_FILLS = {
    aten.masked_fill.Scalar: (2, True),
    aten.masked_fill.Tensor: (2, True),
    aten.constant_pad_nd.default: (2, True),
    aten.pad.default: (3, True),
    aten.where.ScalarOther: (2, True),
    aten.where.ScalarSelf: (1, True),
    aten.fill.Scalar: (1, False),
    aten.fill.Tensor: (1, False),
    aten.full.default: (1, False),
    aten.full_like.default: (1, False),
}


def sentinels(module: GraphModule, node: Node) -> tuple[float, ...]:
    """The filled-in values in a tensor that need no range, since its readers make nothing of them."""
    sign = absorbed(node)
    return tuple(sorted(value for value in _filled(module, node) if value * sign > 0)) if sign else ()


def absorbed(node: Node) -> int:
    """Which large values all readers of a tensor make nothing of, also after moves and sums.

    -1: large negative ones, as of a maximum or a softmax; 1: large positive ones, as of a minimum; 0: none.
    """
    signs = {_absorbed_by(reader, node) for reader in node.users}
    return signs.pop() if len(signs) == 1 else 0


def _absorbed_by(reader: Node, node: Node) -> int:
    if reader.target is ATTENTION:
        given = reader.args[3] if len(reader.args) > 3 else reader.kwargs.get("attn_mask")
        return -1 if given is node else 0
    if reader.target in TRANSPARENT - _MAXIMA | _SUMS | _MERGES | _FILLS.keys():
        return absorbed(reader)
    return -1 if reader.target in _MAXIMA else 1 if reader.target in _MINIMA else 0


def _filled(module: GraphModule, node: Node) -> set[float]:
    """The constants in parts of a tensor."""
    if node.target in _FILLS:
        position, others = _FILLS[node.target]
        value = node.args[position] if len(node.args) > position else node.kwargs.get("value", 0.0)
        beside = [part for part in node.all_input_nodes if others and part is not value]
        return _number(module, value).union(*(_filled(module, part) for part in beside))
    if node.target in TRANSPARENT | _MERGES | _MAXIMA | _MINIMA:
        return set().union(*(_filled(module, part) for part in node.all_input_nodes))
    return _number(module, node) if node.op == "get_attr" else set()


def _number(module: GraphModule, value: Any) -> set[float]:
    if isinstance(value, Node):
        value = constant(module, value)
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    return {float(value)} if isinstance(value, int | float) else set()
