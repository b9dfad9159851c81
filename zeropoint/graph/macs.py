"""Multiply-accumulates of a Program's operators: what its arithmetic amounts to."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.utils.flop_counter import FlopCounterMode

from zeropoint.graph.program import Program, at_batch

HEAVY = 1 << 30  # multiply-accumulates of one item


def multiply_accumulates(program: Program) -> dict[str, int]:
    """By the name of its node, the multiply-accumulates of every operator that does any, at batch 1."""
    counter = _Counter(program.module)
    with torch.no_grad(), counter.flops:
        counter.run(*at_batch(program, 1).example_inputs)
    return counter.counted


def work(program: Program) -> int:
    """The multiply-accumulates of the whole network at batch 1, at least 1."""
    if program.module not in _works:  # it is run for that
        _works[program.module] = max(1, sum(multiply_accumulates(program).values()))
    return _works[program.module]


_works: WeakKeyDictionary[GraphModule, int] = WeakKeyDictionary()


def is_heavy(program: Program) -> bool:
    """Whether a network is so large that finding out how it runs fastest is worth the while."""
    return work(program) >= HEAVY


class _Counter(Interpreter):
    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.counted: dict[str, int] = {}
        self.flops, self.before = FlopCounterMode(display=False), 0

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        flops = self.flops.get_total_flops()
        if count := (flops - self.before) // 2:  # a multiplication and an addition each
            self.counted[n.name] = count
        self.before = flops
        return value
