"""Stepping: a float network and a quantized one side by side, operator by operator, on the same data."""

import itertools
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, cast

from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from zeropoint.data.batches import inputs_of, items_of
from zeropoint.graph import edits as fx
from zeropoint.graph.operators import FAKE_QUANTIZE
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import FAST

Values = dict[Node, Any]
"""What the nodes of a graph gave for one batch, as long as others need it."""
ITEMS = 8  # at a time
MEMORY = 1 << 30  # bytes of activations that are held at once, at most about


def batches_of(
    program: Program, calibration: Iterable[Any], items: int | None = None
) -> list[tuple[Tensor, ...]]:
    """The first inputs of the calibration data, a few items each where the batch size is free."""
    room = MEMORY // (2 * _live_bytes(program))
    room = room if items is None else min(room, items)
    batches: list[tuple[Tensor, ...]] = []
    for inputs in inputs_of(calibration, ITEMS if program.dynamic_batch else None):
        split = [tensor.split(ITEMS) if program.dynamic_batch else (tensor,) for tensor in inputs]
        for parts in zip(*split, strict=True):
            room -= items_of(parts)
            if batches and room < 0:
                return batches
            batches.append(parts)
    return batches


def _live_bytes(program: Program) -> int:
    """About what one item's activations take at the point of the graph where most are needed again."""
    live, most = 0, 1
    done = Interpreter(program.module).user_to_last_uses
    for node in program.module.graph.nodes:
        live += fx.item_bytes(node)
        most = max(most, live)
        live -= sum(fx.item_bytes(other) for other in done.get(node, ()))
    return most


def step(module: GraphModule, node: Node, floats: list[Values], integers: list[Values]) -> None:
    """Computes a node in both networks; in the float one a quantizer gives back what it takes."""
    if node.op == "get_attr":
        value = attrgetter(str(node.target))(module)  # a tensor, or a branch's graph
        for env in (*floats, *integers):
            env[node] = value
    elif node.op == "call_function":
        for env in floats:
            skipped = node.target in FAKE_QUANTIZE
            env[node] = env[cast(Node, node.args[0])] if skipped else _value(node, env)
        if integers and all(source.op == "get_attr" for source in node.all_input_nodes):
            integers[0][node] = _value(node, integers[0])
            for env in integers[1:]:
                env[node] = integers[0][node]
        else:
            for env in integers:
                env[node] = _value(node, env)


def _value(node: Node, env: Values) -> Any:
    arguments, keywords = map_arg((node.args, node.kwargs), env.__getitem__)
    operator: Any = FAST.get(node.target, node.target)
    return operator(*arguments, **keywords)


def forget(done: Iterable[Node], *networks: list[Values]) -> None:
    """Drops the values that nothing needs any more."""
    for values in itertools.chain(*networks):
        for node in done:
            values.pop(node, None)
