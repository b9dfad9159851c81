"""Attention: scaled dot product attention taken apart, so that its two matrix products can be quantized.

Vaswani et al. 2017, eq. 1: ``softmax(Q Kᵀ / sqrt(d) + mask) V``.
"""

import dataclasses
import math
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from zeropoint import graph as fx
from zeropoint.operators import aten
from zeropoint.program import Program


def decompose_attention(program: Program) -> Program:
    """The Program with each fused attention as products and a softmax, where these compute the same.

    Attention that is causal, has a mask of booleans or shares keys among heads stays as it is, and float.
    """
    module = fx.copy(program.module)
    for node in [n for n in module.graph.nodes if n.target is aten.scaled_dot_product_attention.default]:
        arguments = _arguments(node)
        mask = arguments["attn_mask"]
        plain = not (arguments["dropout_p"] or arguments["is_causal"] or arguments["enable_gqa"])
        if plain and (mask is None or fx.is_float(mask)):
            _decompose(module, node, arguments)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _arguments(node: Node) -> dict[str, Any]:
    schema = cast(Any, node.target)._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {argument.name: argument.default_value for argument in schema} | given | node.kwargs


def _decompose(module: GraphModule, node: Node, arguments: dict[str, Any]) -> None:
    query, key, value, mask = (arguments[name] for name in ("query", "key", "value", "attn_mask"))
    scale = arguments["scale"]
    if scale is None:
        scale = 1 / math.sqrt(query.meta["val"].shape[-1])

    def then(target: Any, *operands: Any) -> Node:
        made = module.graph.call_function(target, operands)
        values = [operand.meta["val"] if isinstance(operand, Node) else operand for operand in operands]
        made.meta = {**node.meta, "val": target(*values)}
        return made

    with module.graph.inserting_before(node):
        scores = then(aten.matmul.default, query, then(aten.transpose.int, key, -2, -1))
        scores = then(aten.mul.Tensor, scores, float(scale))
        if mask is not None:
            # A row of -inf alone would become NaN here; fused attention makes it zero.
            lowest = torch.finfo(mask.meta["val"].dtype).min
            scores = then(aten.add.Tensor, scores, then(aten.clamp_min.default, mask, lowest))
        weights = then(aten.softmax.int, scores, -1)
        node.replace_all_uses_with(then(aten.matmul.default, weights, value))
    module.graph.erase_node(node)  # for its dropout it counts as impure, and would stay unused
