"""Stacks of matrices, as of a mixture of experts: where they are, and the axes that are summed over."""

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import aten

KINDS = ("product", "baddbmm", "einsum", "linear")


def stacks(node: Node) -> list[tuple[Node, int]]:
    """The stored tensors of three dimensions or more that a product reads, and the axis that it sums over.

    All of a stack may be read, or some of its matrices: one by its number, or those that a router chose.
    """
    found = [_stored(cast(Node, operand), axis) for operand, axis in _factors(node)]
    return [one for one in found if one is not None]


def _factors(node: Node) -> Iterator[tuple[Any, int]]:
    """The tensors that a product multiplies, each with the axis that it sums over."""
    arguments: Any = node.args
    if node.target in (aten.matmul.default, aten.bmm.default, aten.baddbmm.default):
        left, right = arguments[-2:] if node.target is not aten.baddbmm.default else arguments[1:3]
        yield from ((left, -1), (right, -2))
    elif node.target is aten.linear.default:
        yield arguments[1], -1
    elif node.target is aten.einsum.default:
        terms, _, output = arguments[0].replace(" ", "").partition("->")
        for term, operand in zip(terms.split(","), arguments[1], strict=True):
            summed = [axis for axis, letter in enumerate(term) if letter not in output]
            if len(summed) == 1 and "." not in term:
                yield operand, summed[0]


def _stored(value: Node, axis: int) -> tuple[Node, int] | None:
    """The stored tensor that ``value`` is a part of, and which of its axes ``axis`` is; None for others."""
    axis %= max(1, value.meta["val"].dim())
    while not fx.is_stored(value):
        if value.target not in _PARTS:
            return None
        rank = value.meta["val"].dim()
        axis = _PARTS[value.target](axis, rank, *value.args[1:])
        if axis < 0:
            return None
        value = cast(Node, value.args[0])
    return (value, axis) if value.meta["val"].dim() > 2 and fx.is_float(value) else None


def _unsqueezed(axis: int, rank: int, new: int) -> int:
    return -1 if axis == new % rank else axis - (axis > new % rank)


def _swapped(axis: int, rank: int, *pair: int) -> int:
    one, other = (at % rank for at in pair)
    return {one: other, other: one}.get(axis, axis)


# Which axis of what an operator reads an axis of its value is, of so many; -1 for none.
_PARTS: dict[Any, Callable[..., int]] = {
    aten.slice.Tensor: lambda axis, *_: axis,
    aten.contiguous.default: lambda axis, *_: axis,
    aten.clone.default: lambda axis, *_: axis,
    aten.index_select.default: lambda axis, *_: axis,
    aten.select.int: lambda axis, rank, taken, _: axis + (axis >= taken % (rank + 1)),
    aten.index.Tensor: lambda axis, rank, given: (
        axis - given[0].meta["val"].dim() + 1 if len(given) == 1 else -1
    ),
    aten.transpose.int: _swapped,
    aten.permute.default: lambda axis, rank, order: order[axis] % rank,
    aten.unsqueeze.default: _unsqueezed,
}
