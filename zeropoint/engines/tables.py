"""Tables: embeddings that look up rows of integers, and dequantize those alone and not the whole table."""

import dataclasses

from torch.fx import GraphModule, Node

from zeropoint.engines.bags import take_bags_apart
from zeropoint.graph import edits as fx
from zeropoint.graph.operators import EMBEDDINGS, aten
from zeropoint.graph.packing import dequantized
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, quantizers


def look_up_integers(program: Program) -> Program:
    """The Program with embeddings after a weight's quantizer reading integers; the same values.

    Bags of embeddings become embeddings.
    """
    module = fx.copy(program.module)
    take_bags_apart(module)
    for quantizer in list(quantizers(module)):
        readers = [user for user in quantizer.node.users if user.target in EMBEDDINGS]
        if quantizer.is_weight and quantizer.axis == 0 and readers:
            parts = _stored(module, quantizer)
            for reader in readers:
                _read(module, reader, *parts)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _stored(module: GraphModule, quantizer: Quantizer) -> tuple[str, str, str | None]:
    """The names of a table's integers, of the scale of each row, and of the zero points if there are any."""
    name = str(quantizer.source.target)
    rows = fx.set_tensor(module, f"{name}__rows", quantizer.integers(module))
    scale = fx.set_tensor(module, f"{name}__row_scale", quantizer.scale.reshape(-1, 1))
    if not quantizer.zero_point.any():
        return rows, scale, None
    offsets = quantizer.zero_point.float().reshape(-1, 1)
    return rows, scale, fx.set_tensor(module, f"{name}__row_zero_point", offsets)


def _read(module: GraphModule, reader: Node, rows: str, scale: str, zero_point: str | None) -> None:
    """Puts the arithmetic of integers in place of an embedding."""
    graph = module.graph

    def look_up(name: str) -> Node:
        stored = graph.get_attr(name)
        stored.meta["val"] = value = fx.tensor_of(module, stored)
        if name != rows and len(value) == 1:  # one for all rows
            return stored
        return graph.call_function(aten.embedding.default, (stored, reader.args[1]))

    with graph.inserting_before(reader):
        value = dequantized(look_up(rows), look_up(scale), look_up(zero_point) if zero_point else None)
    value.meta = dict(reader.meta)
    reader.replace_all_uses_with(value)
    graph.erase_node(reader)
