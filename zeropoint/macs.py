"""Multiply-accumulates of a Program's operators: what its arithmetic amounts to."""

from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.utils.flop_counter import FlopCounterMode

from zeropoint.program import Program, at_batch


def multiply_accumulates(program: Program) -> dict[str, int]:
    """By the name of its node, the multiply-accumulates of every operator that does any, at batch 1."""
    counter = _Counter(program.module)
    with torch.no_grad():
        counter.run(*at_batch(program, 1).example_inputs)
    return counter.counted


def work(program: Program) -> int:
    """The multiply-accumulates of the whole network at batch 1, at least 1."""
    return max(1, sum(multiply_accumulates(program).values()))


class _Counter(Interpreter):
    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.counted: dict[str, int] = {}

    def run_node(self, n: Node) -> Any:
        with FlopCounterMode(display=False) as flops:
            value = super().run_node(n)
        if count := flops.get_total_flops() // 2:  # a multiplication and an addition each
            self.counted[n.name] = count
        return value
