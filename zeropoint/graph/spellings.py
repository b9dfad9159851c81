"""Spellings: operators that PyTorch has by several names, under the one that rules and passes know."""

from collections.abc import Callable
from typing import Any

from torch.fx import Node

from zeropoint.graph.operators import aten

Call = tuple[Any, tuple[Any, ...]]


def respell(node: Node) -> None:
    """Gives an operator its usual name and arguments, in place."""
    if node.target in _NAMES:
        node.target = _NAMES[node.target]
    elif node.target in _CALLS and not node.kwargs:
        call = _CALLS[node.target](*node.args)
        if call is not None:
            node.target, node.args = call


_NAMES = {
    aten.concat.default: aten.cat.default,
    aten.concatenate.default: aten.cat.default,
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.divide.Tensor: aten.div.Tensor,
    aten.true_divide.Tensor: aten.div.Tensor,
    aten.negative.default: aten.neg.default,
    aten.absolute.default: aten.abs.default,
    aten.clip.Tensor: aten.clamp.Tensor,
    aten.special_expit.default: aten.sigmoid.default,
    aten.linalg_matmul.default: aten.matmul.default,
    aten.swapaxes.default: aten.transpose.int,
    aten.swapdims.default: aten.transpose.int,
    aten.broadcast_to.default: aten.expand.default,
    aten.unsafe_chunk.default: aten.chunk.default,
    aten.unsafe_split.Tensor: aten.split.Tensor,
    # What Python's & | ^ are traced to, and the usual name.
    **{
        getattr(getattr(aten, f"__{name}__"), overload): getattr(getattr(aten, f"bitwise_{name}"), overload)
        for name in ("and", "or", "xor")
        for overload in ("Tensor", "Scalar")
    },
}


def _rank(value: Node) -> int:
    return int(value.meta["val"].dim())


def _moved(value: Node, sources: Any, destinations: Any) -> Call:
    """The permutation of ``movedim``: the axes that are not named keep their order."""
    rank = _rank(value)
    pairs = zip(*([one] if isinstance(one, int) else one for one in (sources, destinations)), strict=True)
    placed = {to % rank: axis % rank for axis, to in pairs}
    others = iter([axis for axis in range(rank) if axis not in placed.values()])
    return aten.permute.default, (value, [placed[to] if to in placed else next(others) for to in range(rank)])


def _transposed(value: Node) -> Call | None:
    return (aten.transpose.int, (value, -2, -1)) if _rank(value) >= 2 else None


def _narrowed(value: Node, axis: int, start: Any, length: Any) -> Call | None:
    is_known = isinstance(start, int) and isinstance(length, int) and start >= 0
    return (aten.slice.Tensor, (value, axis, start, start + length)) if is_known else None


def _squeezed(value: Node) -> Call:
    ones = [axis for axis, size in enumerate(value.meta["val"].shape) if isinstance(size, int) and size == 1]
    return (aten.squeeze.dims, (value, ones)) if ones else (aten.alias.default, (value,))


def _over_all(target: Any) -> Callable[[Node], Call]:
    """A reduction over all axes, by their numbers."""
    return lambda value: (target, (value, list(range(_rank(value)))))


def _stacked(axis: int) -> Callable[[list[Node]], Call | None]:
    """A concatenation along an axis, which all parts have."""
    return lambda parts: (
        (aten.cat.default, (parts, axis)) if all(_rank(one) > max(axis, 1) for one in parts) else None
    )


def _clamped(value: Node, low: Any = None, high: Any = None) -> Call:
    """With limits of one type: ONNX's exporter takes no others."""
    limits = [
        float(limit) if type(limit) is int and value.meta["val"].is_floating_point() else limit
        for limit in (low, high)
    ]
    return aten.clamp.default, (value, *limits)


_CALLS: dict[Any, Callable[..., Call | None]] = {
    aten.movedim.int: _moved,
    aten.movedim.intlist: _moved,
    aten.moveaxis.int: _moved,
    aten.moveaxis.intlist: _moved,
    aten.mT.default: _transposed,
    aten.t.default: _transposed,
    aten.numpy_T.default: lambda value: (aten.permute.default, (value, list(range(_rank(value)))[::-1])),
    aten.ravel.default: lambda value: (aten.flatten.using_ints, (value, 0, -1)),
    aten.narrow.default: _narrowed,
    aten.squeeze.default: _squeezed,
    aten.hstack.default: _stacked(1),
    aten.vstack.default: _stacked(0),
    aten.mean.default: _over_all(aten.mean.dim),
    aten.sum.default: _over_all(aten.sum.dim_IntList),
    aten.clamp.default: _clamped,
    aten.clip.default: _clamped,
    aten.clamp_min.default: _clamped,
    aten.clamp_max.default: lambda value, high: _clamped(value, None, high),
    aten.relu6.default: lambda value: (aten.hardtanh.default, (value, 0.0, 6.0)),
    aten.special_softmax.default: lambda value, axis, *kind: (aten.softmax.int, (value, axis, *kind)),
}
