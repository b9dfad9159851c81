"""Attention: scaled dot product attention taken apart, so that its two matrix products can be quantized.

Vaswani et al. 2017, eq. 1: ``softmax(Q Kᵀ / sqrt(d) + mask) V``.
"""

import dataclasses
import math
from functools import partial
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.attention import ATTENTION, arguments_of, inserted
from zeropoint.graph.constants import constant
from zeropoint.graph.exported import refresh
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program


def decompose_attention(program: Program) -> Program:
    """The Program with each fused attention as products and a softmax, where these compute the same.

    A query that sees no key at all gets zeros, as in fused attention. A mask that hides nothing, as BERT
    makes itself one, goes. Causal attention stays as it is, and float.
    """
    module = fx.copy(program.module)
    products = []
    for node in [n for n in module.graph.nodes if n.target is ATTENTION]:
        arguments = arguments_of(node)
        if not (arguments["dropout_p"] or arguments["is_causal"]):
            products.append(_decompose(module, node, arguments))
    if products:
        refresh(module, products)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _decompose(module: GraphModule, node: Node, arguments: dict[str, Any]) -> Node:
    query, key, value, mask = (arguments[name] for name in ("query", "key", "value", "attn_mask"))
    if mask is not None and _hides_nothing(module, mask, query):
        mask = None
    scale = arguments["scale"]
    if scale is None:
        scale = 1 / math.sqrt(query.meta["val"].shape[-1])

    then = partial(inserted, node)
    with module.graph.inserting_before(node):
        scores = then(aten.matmul.default, query, then(aten.transpose.int, key, -2, -1))
        scores = then(aten.mul.Tensor, scores, float(scale))
        if mask is not None:
            # Not -inf: a row of it alone would become NaN. Half of the lowest stays finite with a score
            # added, and in bfloat16.
            dtype = (mask if fx.is_float(mask) else scores).meta["val"].dtype
            low = torch.finfo(dtype).min / 2
            if fx.is_float(mask):
                offset = then(aten.clamp_min.default, mask, low)
            else:  # of booleans: 0 where it is true, low where it is false
                shown = then(aten._to_copy.default, mask, dtype=dtype)
                offset = then(aten.mul.Tensor, then(aten.sub.Tensor, shown, 1.0), -low)
            scores = then(aten.add.Tensor, scores, offset)
        weights = then(aten.softmax.int, scores, -1)
        result = then(aten.matmul.default, weights, value)
        if mask is not None and not _shows_each(module, mask):
            if fx.is_float(mask):
                mask = then(aten.gt.Scalar, mask, float("-inf"))
            seen = then(
                aten._to_copy.default, then(aten.any.dim, mask, -1, True), dtype=result.meta["val"].dtype
            )
            result = then(aten.mul.Tensor, result, seen)
        node.replace_all_uses_with(result)
    module.graph.erase_node(node)  # for its dropout it counts as impure, and would stay unused
    return result


def _shows_each(module: GraphModule, mask: Node) -> bool:
    """Whether a mask leaves a key to every query, whatever the inputs are."""
    value = constant(module, mask)
    if value is None:
        return False
    shown = value if value.dtype == torch.bool else value > float("-inf")
    return bool(shown.any(-1).all())


def _hides_nothing(module: GraphModule, mask: Node, query: Node) -> bool:
    """Whether a mask of booleans is true throughout, whatever the inputs are, and repeats no query."""
    outer = [fx.item_sizes(node)[:-2] for node in (query, mask)]
    if len(outer[1]) > len(outer[0]) or any(
        size not in (1, of_query) for of_query, size in zip(outer[0][::-1], outer[1][::-1], strict=False)
    ):
        return False
    while mask.target is aten.expand.default:  # to the size of a batch
        mask = cast(Node, mask.args[0])
    value = constant(module, mask)
    return value is not None and value.dtype == torch.bool and bool(value.all())
