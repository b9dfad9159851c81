"""Names: how exporters number operators, by which an engine's kernels are traced back to a Program."""

from collections import Counter
from collections.abc import Callable

from torch.fx import Node

from zeropoint.program import Program


def numbered(program: Program, base: Callable[[Node], str | None]) -> dict[str, str]:
    """For operators of which ``base`` tells the exporter's word, the exported name and the node's own.

    Exporters number operators of a kind in the order of the graph: linear, linear_1, linear_2.
    """
    seen: Counter[str] = Counter()
    names = {}
    for node in program.module.graph.nodes:
        word = base(node) if node.op == "call_function" else None
        if word is not None:
            names[f"{word}_{seen[word]}" if seen[word] else word] = node.name
            seen[word] += 1
    return names
