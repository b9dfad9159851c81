"""What is printed of a search: the models on its frontier, the one chosen, what its layers got and why."""

import math
from collections import Counter

from rich.console import Group, RenderableType
from rich.text import Text

from zeropoint.report.columns import Column, table
from zeropoint.report.figures import NOTHING, count, decibels, figures, known, megabytes, percent, value_text
from zeropoint.tasks import Measure
from zeropoint.tuning.budget import LATENCY
from zeropoint.tuning.formats import FLOAT, INT8
from zeropoint.tuning.frontier import Frontier, Point, describe

SHOWN = 12  # layers in a terminal


def terminal(frontier: Frontier) -> RenderableType:
    """The frontier as a table, the choice in a line, and its layers that differ from W8A8."""
    measure = frontier.measure
    columns = [
        Column[Point](
            "Model", lambda point: ("→ " if point.name == frontier.chosen else "") + described(point)
        ),
        Column[Point]("Latency\nms", lambda point: figures(1e3 * point.cost(LATENCY)), "right"),
        Column[Point]("Size\nMB", lambda point: known(point.size_bytes, megabytes), "right"),
        Column[Point]("SQNR\ndB", lambda point: decibels(point.sqnr_db), "right"),
    ]
    if measure is not None:
        columns.append(
            Column(
                f"{measure.name}\n{measure.unit}",
                lambda p: known(p.value, lambda v: _value(v, measure)),
                "right",
            )
        )
        columns.append(Column("Drop (95%)\n" + measure.unit, lambda point: _drop(point, measure), "right"))
    columns.append(Column("Predicted\nms", lambda point: known(point.predicted_ms, figures), "right"))
    columns.append(Column("Predicted\ndB", lambda point: known(point.predicted_db, decibels), "right"))
    notes = [f"measured: {count(len(frontier.points), 'model')}; those on the frontier are shown"]
    failed = [f"{describe(point)} failed: {point.error}" for point in frontier.points if point.error]
    return Group(
        Text(f"{frontier.model} · {frontier.data} · {frontier.budget}", style="bold"),
        table(columns, frontier.best, gap=2),
        Text(),
        *([Text(verdict(frontier))] if frontier.chosen else []),
        *(Text(line, style="dim") for line in [*_told(frontier)[:SHOWN], *notes, *failed]),
    )


def verdict(frontier: Frontier) -> str:
    """The chosen model in a sentence."""
    point = frontier[frontier.chosen]
    parts = [f"{1e3 * point.cost(LATENCY):.3g} ms", f"{(point.size_bytes or 0) / 1e6:.3g} MB"]
    if point.sqnr_db is not None:
        parts.append(f"{point.sqnr_db:.1f} dB")
    if frontier.measure is not None and point.value is not None:
        parts.append(f"{frontier.measure.name} {value_text(point.value, frontier.measure)}")
        parts.append(f"drop {_drop(point, frontier.measure)}")
    return f"Chosen: {describe(point)}: {', '.join(parts)}; {frontier.budget}."


def _told(frontier: Frontier) -> list[str]:
    """A line for each layer of a chosen mixture that is not W8A8."""
    if frontier.chosen is None or frontier[frontier.chosen].uniform:
        return []
    return [f"{layer}: {name}: {effect}" for layer, name, effect in why(frontier) if effect]


def why(frontier: Frontier) -> list[tuple[str, str, str]]:
    """Of each layer of the chosen model its format, and what that costs and saves; "" for W8A8."""
    if frontier.chosen is None:
        return []
    point = frontier[frontier.chosen]
    uniform = [one for one in frontier.points if one.engine == point.engine and one.uniform]
    tables = {str(one.uniform): frontier.tables.get(one.name, {}) for one in uniform}
    whole = point.cost(LATENCY)
    found = []
    formats = dict.fromkeys(tables.get(point.uniform, ()), point.uniform) if point.uniform else point.formats
    for layer, name in sorted(formats.items()):
        own, usual = (tables.get(one, {}).get(layer) for one in (name, INT8))
        if name == INT8 or own is None or usual is None:
            found.append((layer, name, ""))
            continue
        time = (own.seconds - usual.seconds) / whole if whole else 0.0
        noise = point.noise
        gained = 10 * math.log10(1 + max(usual.noise - own.noise, 0.0) / noise) if noise else 0.0
        lost = 10 * math.log10(1 + max(own.noise - usual.noise, 0.0) / noise) if noise else 0.0
        weighs = "" if name == FLOAT else _saved(own.weights, name)
        effects = [
            f"costs {100 * time:.1f}%" if time > 0 else f"saves {-100 * time:.1f}% of the time",
            *([f"saves {gained:.1f} dB"] if gained >= 0.05 else []),
            *([f"costs {lost:.1f} dB"] if lost >= 0.05 else []),
            *([weighs] if weighs else []),
        ]
        found.append((layer, name, ", ".join(effects)))
    return found


def _saved(weights: int, name: str) -> str:
    bits = 8 - int(name[1:].partition("A")[0])
    return f"saves {weights * bits / 8 / 1e3:.3g} kB" if bits > 0 else ""


def described(point: Point) -> str:
    """The method, formats and engine, short."""
    if point.uniform:
        made = "fp32" if point.uniform == FLOAT else f"{point.method} {point.uniform}"
        return f"{made} {point.engine}"
    counts = Counter(point.formats.values()).most_common()
    return f"{point.method} {' '.join(f'{n}×{name}' for name, n in counts)} {point.engine}"


def _value(value: float, measure: Measure) -> str:
    return percent(value) if measure.unit == "%" else figures(value)


def _drop(point: Point, measure: Measure) -> str:
    if point.drop is None:
        return NOTHING
    scale = 100 if measure.unit == "%" else 1
    low, high = point.drop_low or 0.0, point.drop_high or 0.0
    told = [f"{scale * value + 0.0:.2f}".replace("-0.00", "0.00") for value in (point.drop, low, high)]
    return f"{told[0]} ({told[1]} to {told[2]})"
