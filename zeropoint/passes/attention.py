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
from zeropoint.graph.attention import ATTENTION, arguments_of, finite, inserted, sees_any, shows_each
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
    if mask is not None and _hides_nothing(module, mask):
        mask = None
    scale = arguments["scale"]
    if scale is None:
        scale = 1 / math.sqrt(query.meta["val"].shape[-1])

    then = partial(inserted, node)
    with module.graph.inserting_before(node):
        scores = then(aten.matmul.default, query, then(aten.transpose.int, key, -2, -1))
        scores = then(aten.mul.Tensor, scores, float(scale))
        if mask is not None:
            scores = then(aten.add.Tensor, scores, finite(node, mask))
        weights = then(aten.softmax.int, scores, -1)
        result = then(aten.matmul.default, weights, value)
        if mask is not None and not shows_each(module, mask):
            result = then(aten.mul.Tensor, result, sees_any(node, mask))
        node.replace_all_uses_with(result)
    module.graph.erase_node(node)  # for its dropout it counts as impure, and would stay unused
    return result


def _hides_nothing(module: GraphModule, mask: Node) -> bool:
    """Whether a mask of booleans is true throughout, whatever the inputs are."""
    while mask.target is aten.expand.default:  # to the size of a batch
        mask = cast(Node, mask.args[0])
    value = constant(module, mask)
    return value is not None and value.dtype == torch.bool and bool(value.all())
