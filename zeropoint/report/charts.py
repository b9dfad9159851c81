"""Charts of a comparison: pure functions from what was measured to Plotly figures.

Names come from users and from models: Plotly reads HTML in them, so that they go through ``literal``.
"""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from zeropoint.measure.latency import Latency
from zeropoint.measure.parity import ROUNDING_FLOOR_DB
from zeropoint.measure.results import Results, Row
from zeropoint.report.figures import decibels, figures, megabytes, value_text
from zeropoint.tasks.metric import Measure

# Okabe & Ito, Color Universal Design (2008), without yellow and black, which one of the themes swallows.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
NEUTRAL = "#808080"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def literal(text: str) -> str:
    """Text that Plotly shows as it is: its labels read HTML's tags and entities."""
    return html.escape(text, quote=False)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that none beats, by index, the fastest first.

    ``points``: (cost, gain). One beats another if it costs no more, gains no less, and differs.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


@dataclass(frozen=True)
class _Point:
    """A row of a run with its place in the chart: time and ``height``, which times ``sign`` is a gain."""

    run: str
    row: Row
    time: float
    height: float
    sign: int
    metrics: tuple[Measure, ...]


def tradeoff(runs: Mapping[str, Results]) -> go.Figure | None:
    """The first metric against latency, a bubble's area its size, and the Pareto fronts; None without rows.

    Colours are methods, or with several ``runs``, by label, the runs; markers are engines. Unless all runs
    have the same first metric, the chart shows SQNR, values above the floor of float rounding at the floor.
    The better end of a metric is up.
    """
    metric = shared_metric(list(runs.values()))
    sign = 1 if metric is None or metric.higher_is_better else -1
    points = [
        _Point(label, row, row.latency_ms.p50, height, sign, results.metrics)
        for label, results in runs.items()
        for row in results.rows
        if row.error is None and row.latency_ms and (height := _height(row, metric)) is not None
    ]
    if not points:
        return None
    figure = figure_of(
        xaxis=axis("latency, median (ms)", rangemode="tozero"),
        yaxis=axis(
            f"SQNR (dB), at {ROUNDING_FLOOR_DB:.0f} all from there up"
            if metric is None
            else f"{metric.name} ({metric.unit})"
            if metric.unit
            else metric.name,
            autorange=True if sign > 0 else "reversed",
        ),
        height=480,
        hovermode="closest",
    )
    _log_if_wide(figure, [point.time for point in points])
    several = len(runs) > 1
    groups: dict[str, list[_Point]] = {}
    for point in points:
        groups.setdefault(point.run if several else _method(point.row), []).append(point)
    colours = _colours(list(groups), plain=not several)
    engines = dict(zip(dict.fromkeys(point.row.engine for point in points), itertools.cycle(SYMBOLS)))
    for run in dict.fromkeys(point.run for point in points):
        figure.add_scatter(**_front([one for one in points if one.run == run], colours.get(run), several))
    for name, members in groups.items():
        figure.add_scatter(**_bubbles(name, members, points, engines, colours[name], several))
    if ringed := [one for one in points if one.row.name == runs[one.run].chosen]:
        figure.add_scatter(**_ring(ringed))
    for name, symbol in engines.items():  # the legend of the markers
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=literal(name),
            marker={"symbol": f"{symbol}-open", "color": NEUTRAL, "size": 10},
            legendgroup="engines",
            hoverinfo="skip",
        )
    return figure


def _front(points: Sequence[_Point], colour: str | None, several: bool) -> dict[str, Any]:
    """The Pareto front of one run."""
    front = [points[i] for i in pareto([(point.time, point.sign * point.height) for point in points])]
    return {
        "x": [point.time for point in front],
        "y": [point.height for point in front],
        "mode": "lines",
        "line": {"shape": "hv", "dash": "dash", "width": 1.5, "color": colour if several else NEUTRAL},
        "name": literal(f"Pareto front of {points[0].run}") if several else "Pareto front",
        "showlegend": not several,
        "hoverinfo": "skip",
    }


def _ring(points: Sequence[_Point]) -> dict[str, Any]:
    """A ring around what searches chose."""
    return {
        "x": [point.time for point in points],
        "y": [point.height for point in points],
        "mode": "markers",
        "name": "chosen",
        "marker": {"symbol": "circle-open", "size": 42, "color": NEUTRAL, "line": {"width": 2}},
        "hoverinfo": "skip",
    }


def _bubbles(
    name: str,
    members: Sequence[_Point],
    points: Sequence[_Point],
    engines: Mapping[str, str],
    colour: str,
    several: bool,
) -> dict[str, Any]:
    """The ``members`` of a group among all ``points``."""
    largest = max(point.row.size_bytes or 0 for point in points) or 1
    marker = {
        "color": colour,
        "symbol": [engines[point.row.engine] for point in members],
        "size": [point.row.size_bytes or 0 for point in members],
        "sizemode": "area",
        "sizeref": 2 * largest / 32**2,
        "sizemin": 6,
        "opacity": 0.85,
        "line": {"width": 1, "color": NEUTRAL},
    }
    return {
        "x": [point.time for point in members],
        "y": [point.height for point in members],
        "mode": "markers",
        "name": literal(name),
        "marker": marker,
        "text": [literal(f"{one.run}: {one.row.name}" if several else one.row.name) for one in members],
        "customdata": [_facts(point.row, point.metrics) for point in members],
        "hovertemplate": "<b>%{text}</b><br>%{customdata}<extra></extra>",
        "legendrank": 1,
    }


def sizes(results: Results) -> go.Figure | None:
    """A bar for each row's artefact, with the bytes of the weights alone as a marker; None without rows."""
    rows = [row for row in results.rows if row.size_bytes is not None]
    if not rows:
        return None
    figure = _bars(rows, "size (MB, 10⁶ bytes)")
    names, colours = [literal(row.name) for row in rows], _row_colours(results.rows)
    megabytes = [(row.size_bytes or 0) / 1e6 for row in rows]
    figure.update_xaxes(range=[0, 1.25 * max(megabytes)])  # room for the numbers
    figure.add_bar(
        x=megabytes,
        y=names,
        orientation="h",
        name="artefact on disk",
        marker={"color": [colours[_method(row)] for row in rows]},
        text=[figures(value) for value in megabytes],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.3f} MB<extra></extra>",
    )
    weights = [None if row.parameter_bytes is None else row.parameter_bytes / 1e6 for row in rows]
    figure.add_scatter(
        x=weights,
        y=names,
        mode="markers",
        name="weights alone",
        marker={"symbol": "diamond-open", "color": NEUTRAL, "size": 9, "line": {"width": 2}},
        hovertemplate="%{y}: weights %{x:.3f} MB<extra></extra>",
    )
    return figure


def latencies(results: Results) -> go.Figure | None:
    """A box for each row, from the median to the 90th percentile, its whisker to the 99th; None without."""
    timed = [(row, row.latency_ms) for row in results.rows if row.latency_ms is not None]
    if not timed:
        return None
    rows = [row for row, _ in timed]
    figure = _bars(rows, "latency (ms)")
    colours = _row_colours(results.rows)
    for row, latency in timed:
        figure.add_box(**_box(row, latency, colours[_method(row)]))
    figure.add_scatter(
        x=[latency.p50 for _, latency in timed],
        y=[literal(row.name) for row in rows],
        mode="markers",
        marker={"symbol": "line-ns-open", "color": NEUTRAL, "size": 12, "line": {"width": 3}},
        showlegend=False,
        customdata=[[latency.p90, latency.p99] for _, latency in timed],
        hovertemplate="%{y}<br>median %{x:.3f} ms, 90% within %{customdata[0]:.3f} ms,"
        " 99% within %{customdata[1]:.3f} ms<extra></extra>",
    )
    figure.update_layout(boxgap=0.4)
    _log_if_wide(figure, [time for _, latency in timed for time in (latency.p50, latency.p99)])
    return figure


def _box(row: Row, latency: Latency, colour: str) -> dict[str, Any]:
    return {
        "y": [literal(row.name)],
        "q1": [latency.p50],
        "median": [latency.p50],
        "q3": [latency.p90],
        "lowerfence": [latency.p50],
        "upperfence": [latency.p99],
        "orientation": "h",
        "marker": {"color": colour},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def figure_of(**layout: object) -> go.Figure:
    """An empty figure; the page sets the template, light or dark."""
    return go.Figure(layout={"template": go.layout.Template()} | layout_of(**layout))


def layout_of(**settings: object) -> dict[str, Any]:
    """The layout that all charts share, and ``settings``."""
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    return {"margin": {"l": 10, "r": 10, "t": 30, "b": 10}, "legend": legend} | settings


def axis(title: str, **settings: object) -> dict[str, object]:
    """An axis with its title."""
    return {"title": {"text": title}, "automargin": True} | settings


def _bars(rows: Sequence[Row], title: str) -> go.Figure:
    """A figure with a line for each row, the first on top."""
    names = [literal(row.name) for row in rows]
    return figure_of(
        xaxis=axis(title, rangemode="tozero"),
        yaxis=axis("", categoryorder="array", categoryarray=names[::-1], type="category"),
        height=110 + 30 * len(rows),
    )


def _log_if_wide(figure: go.Figure, values: Sequence[float]) -> None:
    """A log scale on the x axis if the greatest value is far from the least."""
    if max(values) > 8 * min(values) > 0:
        decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        labels = [f"{tick:g}" for tick in ticks]  # Plotly's own say 2 for 0.2
        figure.update_xaxes(type="log", rangemode="normal", tickvals=ticks, ticktext=labels)


def _method(row: Row) -> str:
    return f"{row.method} {row.bits}" if row.quantized else row.method


def _row_colours(rows: Sequence[Row]) -> dict[str, str]:
    return _colours(list(dict.fromkeys(map(_method, rows))), plain=True)


def _colours(names: Sequence[str], *, plain: bool) -> dict[str, str]:
    """A colour for each name; ``plain``: grey for fp32, the one that others are compared with."""
    grey = {"fp32": NEUTRAL} if plain else {}
    return dict(zip([name for name in names if name not in grey], itertools.cycle(COLOURS))) | grey


def shared_metric(runs: Sequence[Results]) -> Measure | None:
    """The first metric, if it is the same in all runs."""
    firsts = {results.metrics[:1] for results in runs}
    first = firsts.pop() if len(firsts) == 1 else ()
    return first[0] if first else None


def _height(row: Row, metric: Measure | None) -> float | None:
    if metric is not None:
        value = row.values.get(metric.name)
        return value if value is None or metric.unit != "%" else 100 * value
    return ROUNDING_FLOOR_DB if row.sqnr_db is None else min(row.sqnr_db, ROUNDING_FLOOR_DB)


def _facts(row: Row, metrics: Sequence[Measure]) -> str:
    facts = [f"{figures(row.latency_ms.p50)} ms"] if row.latency_ms else []
    if row.size_bytes is not None:
        facts.append(f"{megabytes(row.size_bytes)} MB")
    facts += [
        f"{metric.name} {value_text(value, metric)}"
        for metric in metrics
        if (value := row.values.get(metric.name)) is not None
    ]
    facts.append(f"SQNR {decibels(row.sqnr_db)}")
    return ", ".join(facts)
