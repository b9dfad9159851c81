"""The rules of placement: what they decided in a Program, and what they are, as tables."""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.report.columns import Column, table
from zeropoint.targets.rules import DYNAMIC, STATIC, WEIGHTS, Rule

METHODS = {"static": STATIC, "dynamic": DYNAMIC, "weight-only": WEIGHTS}
"""The rules by the method that they are for; the other methods use those of static."""


def terminal(program: Program, layer: str | None = None) -> RenderableType:
    """Per layer, which rules applied and why others did not, then how often each did.

    ``layer`` is a name or glob; None shows all layers.
    """
    if not program.decisions:
        return Text(f"The {program.method} Program holds no decisions of rules; quantize the model again.")
    names = {node.name: fx.module_name(node) for node in program.module.graph.nodes}
    lines = [
        (names.get(decision.node, decision.node), decision.rule, decision.reason or "yes")
        for decision in program.decisions
    ]
    shown = [line for line in lines if layer is None or fnmatch.fnmatchcase(line[0], layer)]
    counts = Counter((decision.rule, decision.reason is None) for decision in program.decisions)
    rules = dict.fromkeys(rule for rule, _ in counts)
    summary = [(rule, str(counts[rule, True]), str(counts[rule, False])) for rule in rules]
    return Group(
        _table(("Layer", "Rule", "Applied"), shown),
        Text(),
        _table(("Rule", "Applied", "Did not apply"), summary),
    )


def _table(headers: Sequence[str], lines: Iterable[tuple[str, str, str]]) -> Table:
    return table([Column(header, itemgetter(i)) for i, header in enumerate(headers)], lines, gap=2)


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
