"""The rules of placement: what they decided in a Program, and what they are, as tables."""

import fnmatch
from collections import Counter

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.targets.rules import DYNAMIC, STATIC, WEIGHTS, Rule

METHODS = {"static": STATIC, "dynamic": DYNAMIC, "weight-only": WEIGHTS}
"""The rules by the method that they are for; the other methods use those of static."""


def terminal(program: Program, layer: str | None = None) -> RenderableType:
    """Per layer, which rules applied and why others did not, then how often each did.

    ``layer`` is a name or glob; None shows all layers.
    """
    nodes = {node.name: node for node in program.module.graph.nodes}
    table = _table("Layer", "Rule", "Applied")
    counts: Counter[tuple[str, bool]] = Counter()
    for decision in program.decisions:
        node = nodes.get(decision.node)
        name = decision.node if node is None else fx.module_name(node)
        counts[decision.rule, decision.reason is None] += 1
        if layer is None or fnmatch.fnmatchcase(name, layer):
            table.add_row(name, decision.rule, decision.reason or "yes")
    if not program.decisions:
        return Text(f"The {program.method} Program holds no decisions of rules; quantize the model again.")
    summary = _table("Rule", "Applied", "Did not apply")
    for rule in dict.fromkeys(rule for rule, _ in counts):
        summary.add_row(rule, str(counts[rule, True]), str(counts[rule, False]))
    return Group(table, Text(), summary)


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def markdown() -> str:
    """All rules as Markdown tables, a section for each method."""
    parts = []
    for method, rules in METHODS.items():
        parts += [f"## {method}", "", "| Rule | Operators | Applies | Effect |", "| :-- | :-- | :-- | :-- |"]
        parts += [*(f"| {' | '.join(_cells(rule))} |" for rule in rules), ""]
    return "\n".join(parts)


def _cells(rule: Rule) -> tuple[str, ...]:
    question = (rule.check.__doc__ or "Never.").splitlines()[0].removesuffix(".")
    applies = question.replace("Whether", "If") + (", after the other rules" if rule.late else "")
    return rule.name, ", ".join(rule.kinds), applies, rule.effect
