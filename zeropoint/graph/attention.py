"""Attention in the one form that every exporter knows: four axes, and as many heads of keys as of queries."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from zeropoint.graph import edits as fx
from zeropoint.graph.constants import constant
from zeropoint.graph.operators import aten
from zeropoint.torch_private.operators import on_fake, signature

ATTENTION = aten.scaled_dot_product_attention.default
_BY_POSITION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def arguments_of(attention: Node) -> dict[str, Any]:
    """The arguments of fused attention by name, with defaults."""
    schema = signature(attention.target).arguments
    given = {argument.name: value for argument, value in zip(schema, attention.args, strict=False)}
    return {argument.name: argument.default_value for argument in schema} | given | attention.kwargs


def inserted(attention: Node, target: Any, *operands: Any, **options: Any) -> Node:
    """An operator beside fused attention, with what it computes of the recorded values of its operands."""
    made = attention.graph.call_function(target, operands, options)
    values: Any = map_arg(operands, lambda operand: operand.meta["val"])
    known = _known.setdefault(attention.graph, {})
    key = target, *map(_form, values), repr(options)
    if key not in known:
        known[key] = on_fake(target, *values, **options)
    made.meta = {**attention.meta, "val": known[key]}
    return made


# What operators compute of the values recorded in a graph. Finding that out takes 10 ms where sizes are free,
# and the layers of a network are alike.
_known: WeakKeyDictionary[Graph, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()


def _form(value: Any) -> str:
    """What tells recorded values apart: of a tensor its type, shape, and strides; free sizes have names."""
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{value.dtype} {tuple(value.shape)} {value.stride()} {id(getattr(value, 'fake_mode', None))}"


def with_four_axes(attention: Node) -> None:
    """Gives fused attention four axes and its keys and values as many heads as its queries have, in place.

    Attention of more axes whose mask is repeated along some of the first ones is left as it is.
    """
    arguments = arguments_of(attention)
    shape = attention.meta["val"].shape
    query, mask = arguments["query"], arguments["attn_mask"]
    is_usual = len(shape) == 4 and not arguments["enable_gqa"]
    repeats = mask is not None and tuple(mask.meta["val"].shape[:-3]) not in ((), tuple(shape[:-3]))
    if is_usual or (len(shape) > 4 and repeats):
        return
    graph, axes = attention.graph, len(shape)
    with graph.inserting_before(attention):
        if arguments["enable_gqa"]:
            for name in ("key", "value"):
                arguments[name] = _repeated(attention, query, arguments[name])
        for name in ("query", "key", "value", "attn_mask"):
            if arguments[name] is not None:
                arguments[name] = _as_four(attention, arguments[name], axes)
        scale = arguments["scale"]
        # By position, as exporters read them.
        by_position = (arguments[name] for name in _BY_POSITION)
        result = inserted(attention, ATTENTION, *by_position, **({} if scale is None else {"scale": scale}))
        if axes > 4:
            sizes = [
                size if isinstance(size, int) else inserted(attention, aten.sym_size.int, query, axis)
                for axis, size in enumerate(shape[1 : axes - 3], 1)
            ]
            result = inserted(attention, aten.unflatten.int, result, 0, [-1, *sizes])
        for _ in range(4 - axes):
            result = inserted(attention, aten.squeeze.dim, result, 1 if axes == 3 else 0)
    attention.replace_all_uses_with(result)
    graph.erase_node(attention)


def with_finite_masks(module: GraphModule) -> None:
    """Has fused attention give zeros to a query that sees no key, as in PyTorch, on engines that give NaN."""
    for node in module.graph.find_nodes(op="call_function", target=ATTENTION):
        arguments = arguments_of(node)
        mask = arguments["attn_mask"]
        if mask is None or shows_each(module, mask):
            continue
        with module.graph.inserting_before(node):
            offset = finite(node, mask)
        with module.graph.inserting_after(node):
            result = module.graph.call_function(aten.mul.Tensor, (node, node))
        result.meta = dict(node.meta)
        node.replace_all_uses_with(result, delete_user_cb=lambda user, result=result: user is not result)
        with module.graph.inserting_before(result):
            result.args = node, sees_any(node, mask)
        query, key, value = (arguments[name] for name in _BY_POSITION[:3])
        node.args = (query, key, value, offset, *node.args[4:])
        node.kwargs = {name: given for name, given in node.kwargs.items() if name != "attn_mask"}


def finite(attention: Node, mask: Node) -> Node:
    """A mask of booleans or offsets as offsets that are finite: a row of -inf alone would become NaN."""
    dtype = (mask if fx.is_float(mask) else attention).meta["val"].dtype
    low = torch.finfo(dtype).min / 2  # stays finite with a score added, and in bfloat16
    if fx.is_float(mask):
        return inserted(attention, aten.clamp_min.default, mask, low)
    # of booleans: 0 where it is true, low where it is false
    shown = inserted(attention, aten._to_copy.default, mask, dtype=dtype)
    return inserted(attention, aten.mul.Tensor, inserted(attention, aten.sub.Tensor, shown, 1.0), -low)


def sees_any(attention: Node, mask: Node) -> Node:
    """1 for a query that sees a key, 0 for one that sees none."""
    if fx.is_float(mask):
        mask = inserted(attention, aten.gt.Scalar, mask, float("-inf"))
    some = inserted(attention, aten.any.dim, mask, -1, True)
    return inserted(attention, aten._to_copy.default, some, dtype=attention.meta["val"].dtype)


def shows_each(module: GraphModule, mask: Node) -> bool:
    """Whether a mask leaves a key to every query, whatever the inputs are."""
    value = constant(module, mask)
    if value is None:
        return False
    shown = value if value.dtype == torch.bool else value > float("-inf")
    return bool(shown.any(-1).all())


def _repeated(attention: Node, query: Node, keys: Node) -> Node:
    """Keys or values with each head as often as there are queries to it."""
    heads, of_keys = (node.meta["val"].shape[-3] for node in (query, keys))
    if heads == of_keys:
        return keys
    axis = keys.meta["val"].dim() - 3
    apart = inserted(attention, aten.unsqueeze.default, keys, axis + 1)
    sizes = [-1] * (axis + 1) + [heads // of_keys, -1, -1]
    several = inserted(attention, aten.expand.default, apart, sizes)
    return inserted(attention, aten.flatten.using_ints, several, axis, axis + 1)


def _as_four(attention: Node, node: Node, axes: int) -> Node:
    """A tensor of attention of so many axes with four; a mask of fewer axes is repeated anyhow."""
    own = node.meta["val"].dim()
    if own > 4:
        return inserted(attention, aten.flatten.using_ints, node, 0, axes - 4)
    if own < axes:
        return node
    for _ in range(4 - axes):
        node = inserted(attention, aten.unsqueeze.default, node, 1 if axes == 3 else 0)
    return node
