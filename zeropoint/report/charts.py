"""The report's charts: pure functions from what was measured to Plotly figures.

Names come from users and from models: Plotly reads HTML in them, so that they go through ``literal``.
"""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from zeropoint.measure.layers import Distribution, Layer, Layers
from zeropoint.measure.parity import ROUNDING_FLOOR_DB
from zeropoint.measure.results import Results, Row
from zeropoint.report.figures import decibels, figures, percent

# Okabe & Ito, Color Universal Design (2008), without yellow and black, which one of the themes swallows.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
NEUTRAL = "#808080"
CLIPPED = "#D55E00"
GRID = "#CC79A7"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot")

MAX_LEVELS = 256  # grid points that are drawn one by one
MAX_CHANNELS = 128  # bars of ranges; neighbouring channels of wider layers share one
LONG = 200  # layers from which a line is drawn without its markers

Plain = dict[str, Any]
"""A figure as Plotly's JSON: a go.Figure takes 10 ms to check, and a report has hundreds for its layers."""

_SMALL = {"l": 10, "r": 10, "t": 30, "b": 10}


def literal(text: str) -> str:
    """Text that Plotly shows as it is: its labels read HTML's tags and entities."""
    return html.escape(text, quote=False)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that none beats, by index, the fastest first.

    ``points``: (cost, gain). One beats another where it costs no more and gains no less, and differs.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def tradeoff(runs: Mapping[str, Results]) -> go.Figure | None:
    """Top-1 against latency, a bubble's area its size, and each run's Pareto front; None without such rows.

    Colours are methods, or with several ``runs``, by label, the runs; markers are engines. SQNR stands in for
    top-1 where a run has no labels: all above the floor of float rounding is drawn at the floor.
    """
    labelled = all(any(row.top1 is not None for row in results.rows) for results in runs.values())
    shown = {
        label: [row for row in results.rows if _measured(row) and (row.top1 is not None or not labelled)]
        for label, results in runs.items()
    }
    rows = [row for group in shown.values() for row in group]
    if not rows:
        return None
    symbols = dict(zip(dict.fromkeys(row.engine for row in rows), itertools.cycle(SYMBOLS)))
    largest = max(row.size_bytes or 0 for row in rows) or 1
    figure = _figure(
        xaxis=_axis("latency, median (ms)", rangemode="tozero"),
        yaxis=_axis("top-1 (%)" if labelled else f"SQNR (dB), at {ROUNDING_FLOOR_DB:.0f} all from there up"),
        height=480,
        hovermode="closest",
    )
    times = [_median(row) for row in rows]
    _log_where_wide(figure, times)
    several = len(runs) > 1
    groups: dict[str, list[tuple[str, Row]]] = {}
    for label, group in shown.items():
        for row in group:
            groups.setdefault(label if several else _method(row), []).append((label, row))
    colours = _colours(list(groups), plain=not several)
    for label, group in shown.items():
        points = [(_median(row), _gain(row, labelled)) for row in group]
        front = [points[i] for i in pareto(points)]
        colour = colours[label] if several else NEUTRAL
        figure.add_scatter(
            x=[point[0] for point in front],
            y=[point[1] for point in front],
            mode="lines",
            line={"shape": "hv", "dash": "dash", "width": 1.5, "color": colour},
            name=literal(f"Pareto front of {label}") if several else "Pareto front",
            showlegend=not several,
            hoverinfo="skip",
        )
    for name, members in groups.items():
        figure.add_scatter(
            x=[_median(row) for _, row in members],
            y=[_gain(row, labelled) for _, row in members],
            mode="markers",
            name=literal(name),
            marker={
                "color": colours[name],
                "symbol": [symbols[row.engine] for _, row in members],
                "size": [row.size_bytes or 0 for _, row in members],
                "sizemode": "area",
                "sizeref": 2 * largest / 32**2,
                "sizemin": 6,
                "opacity": 0.85,
                "line": {"width": 1, "color": NEUTRAL},
            },
            text=[literal(f"{label}: {row.name}" if several else row.name) for label, row in members],
            customdata=[_facts(row) for _, row in members],
            hovertemplate="<b>%{text}</b><br>%{customdata}<extra></extra>",
            legendrank=1,
        )
    for name, symbol in symbols.items():  # the legend of the markers
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
    rows = [row for row in results.rows if row.latency_ms is not None]
    if not rows:
        return None
    figure = _bars(rows, "latency (ms)")
    colours = _row_colours(results.rows)
    for row in rows:
        latency = row.latency_ms
        assert latency is not None
        figure.add_box(
            y=[literal(row.name)],
            q1=[latency.p50],
            median=[latency.p50],
            q3=[latency.p90],
            lowerfence=[latency.p50],
            upperfence=[latency.p99],
            orientation="h",
            marker={"color": colours[_method(row)]},
            showlegend=False,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=[_median(row) for row in rows],
        y=[literal(row.name) for row in rows],
        mode="markers",
        marker={"symbol": "line-ns-open", "color": NEUTRAL, "size": 12, "line": {"width": 3}},
        showlegend=False,
        customdata=[[row.latency_ms.p90, row.latency_ms.p99] for row in rows if row.latency_ms],
        hovertemplate="%{y}<br>median %{x:.3f} ms, 90% within %{customdata[0]:.3f} ms,"
        " 99% within %{customdata[1]:.3f} ms<extra></extra>",
    )
    figure.update_layout(boxgap=0.4)
    _log_where_wide(
        figure, [time for row in rows if row.latency_ms for time in (row.latency_ms.p50, row.latency_ms.p99)]
    )
    return figure


def errors(programs: Sequence[tuple[Layers, Sequence[int]]]) -> go.Figure:
    """SQNR along the network, a line for each quantized Program.

    ``programs``: each with the places (from 1) at which its layers stand on the x axis. A trace's ``meta`` is
    its number; a layer that is as good as float has no point.
    """
    figure = _figure(
        xaxis=_axis("layer, in the order of the network"),
        yaxis=_axis("SQNR of the layer's output (dB)"),
        height=420,
        hovermode="closest",
    )
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(SYMBOLS), itertools.cycle(DASHES))
    for number, ((layers, places), (colour, symbol, dash)) in enumerate(zip(programs, styles, strict=False)):
        long = len(layers.layers) > LONG
        figure.add_scatter(
            x=list(places),
            y=[None if layer.sqnr_db is None else round(layer.sqnr_db, 2) for layer in layers.layers],
            mode="lines" if long else "lines+markers",
            name=literal(program_name(layers)),
            line={"color": colour, "dash": dash, "width": 1 if long else 2},
            marker={"symbol": symbol, "size": 8},
            meta=number,
            text=[literal(layer.name) for layer in layers.layers],
            hovertemplate="<b>%{text}</b><br>%{y:.1f} dB<extra>%{fullData.name}</extra>",
        )
    return figure


def program_name(layers: Layers) -> str:
    """How the report names a quantized Program: "static W4A8 for openvino"."""
    target = f" for {layers.target}" if layers.target else ""
    return " ".join(part for part in (layers.method, layers.bits) if part) + target


def histogram(distribution: Distribution, what: str) -> Plain:
    """How often which values occur, on a log scale, over the grid that they are put on.

    Bars beyond the range are in the colour of clipping. Lines mark the range: the widest, and where channels
    differ the narrowest one, dotted. Ticks below are the grid, or that of the median scale.
    """
    width = (distribution.high - distribution.low) / max(len(distribution.counts), 1)
    centres = [distribution.low + (i + 0.5) * width for i in range(len(distribution.counts))]
    ranges = grid_ranges(distribution)
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    traces: list[Plain] = []
    for name, colour, clipped in (("within the range", COLOURS[1], False), ("clipped", CLIPPED, True)):
        kept = [
            (centre, count)
            for centre, count in zip(centres, distribution.counts, strict=True)
            if count and (low - width / 2 < centre < high + width / 2) != clipped
        ]
        if kept:
            traces.append(
                {
                    "type": "bar",
                    "x": [_short(centre) for centre, _ in kept],
                    "y": [count for _, count in kept],
                    "width": _short(width) or None,
                    "name": name,
                    "marker": {"color": colour, "line": {"width": 0}},
                    "hovertemplate": "%{x}: %{y}<extra></extra>",
                }
            )
    scale, zero_point = _median_grid(distribution)
    levels = distribution.qmax - distribution.qmin + 1
    if levels <= MAX_LEVELS:
        traces.append(
            {
                "type": "scatter",
                "x0": _short(scale * (distribution.qmin - zero_point)),
                "dx": _short(scale),
                "y": [0] * levels,
                "yaxis": "y2",
                "mode": "markers",
                "marker": {"symbol": "line-ns-open", "size": 10, "color": GRID, "line": {"width": 1}},
                "name": "grid" if len(distribution.scale) == 1 else "grid of the median scale",
                "hovertemplate": "%{x}<extra>grid</extra>",
            }
        )
    ends = [(low, "solid"), (high, "solid")]
    if len(ranges) > 1:
        ends += [(max(low for low, _ in ranges), "dot"), (min(high for _, high in ranges), "dot")]
    layout = _layout(
        shapes=[_vertical(_short(value), dash) for value, dash in ends],
        xaxis=_axis(f"{what}, value", anchor="y2"),
        yaxis=_axis(
            "values per bin (log scale)", domain=[0.1, 1], type="log", dtick=1, exponentformat="power"
        ),
        yaxis2={"domain": [0, 0.07], "range": [-1, 1], "visible": False, "fixedrange": True},
        height=300,
        bargap=0,
    )
    return {"data": traces, "layout": layout}


def channel_ranges(distribution: Distribution) -> Plain | None:
    """From the least to the greatest weight of each channel, and the ends of its grid; None without channels.

    Neighbours share a bar where there are more than MAX_CHANNELS.
    """
    count = len(distribution.channels)
    if not count:
        return None
    step = math.ceil(count / MAX_CHANNELS)
    starts = range(0, count, step)
    lows = [min(low for low, _ in distribution.channels[i : i + step]) for i in starts]
    highs = [max(high for _, high in distribution.channels[i : i + step]) for i in starts]
    traces: list[Plain] = [
        {
            "type": "bar",
            "dx": step,
            "base": list(map(_short, lows)),
            "y": [_short(high - low) for low, high in zip(lows, highs, strict=True)],
            "name": "weights",
            "marker": {"color": COLOURS[1], "line": {"width": 0}},
            "customdata": list(map(_short, highs)),
            "hovertemplate": "%{base} to %{customdata}<extra>weights</extra>",
        }
    ]
    ranges = grid_ranges(distribution)
    ranges = ranges * count if len(ranges) == 1 else ranges
    if len(ranges) == count:  # a scale for each group of inputs has no one end per channel
        for end, pick in enumerate((min, max)):
            traces.append(
                {
                    "type": "scatter",
                    "dx": step,
                    "y": [_short(pick(one[end] for one in ranges[i : i + step])) for i in starts],
                    "mode": "lines" if count > 1 else "markers",
                    "line": {"color": GRID, "shape": "hvh", "width": 1.5},
                    "name": "grid's ends",
                    "showlegend": end == 0,
                    "legendgroup": "grid",
                    "hovertemplate": "%{y}<extra>grid's end</extra>",
                }
            )
    layout = _layout(
        xaxis=_axis("output channel" if step == 1 else f"output channel, {step} to a bar"),
        yaxis=_axis("weight"),
        height=300,
        bargap=0.2,
        hovermode="x",
    )
    return {"data": traces, "layout": layout}


def grid_ranges(distribution: Distribution) -> list[tuple[float, float]]:
    """The least and the greatest value of each grid: one, or one for each scale."""
    return [
        (scale * (distribution.qmin - zero_point), scale * (distribution.qmax - zero_point))
        for scale, zero_point in zip(distribution.scale, distribution.zero_point, strict=False)
    ]


def _median_grid(distribution: Distribution) -> tuple[float, int]:
    """The median scale, with its zero point."""
    grids = sorted(zip(distribution.scale, distribution.zero_point, strict=False))
    return grids[len(grids) // 2]


def worst_first(layers: Layers) -> list[int]:
    """The places of the layers by SQNR, the lowest first; those as good as float come last."""
    return sorted(range(len(layers.layers)), key=lambda i: _noise(layers.layers[i]))


def _noise(layer: Layer) -> float:
    return math.inf if layer.sqnr_db is None else layer.sqnr_db


def _figure(**layout: object) -> go.Figure:
    """An empty figure; the page sets the template, light or dark."""
    return go.Figure(layout={"template": go.layout.Template()} | _layout(**layout))


def _layout(**settings: object) -> Plain:
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    return {"margin": _SMALL, "legend": legend} | settings


def _axis(title: str, **settings: object) -> dict[str, object]:
    return {"title": {"text": title}, "automargin": True} | settings


def _vertical(x: float, dash: str) -> dict[str, object]:
    """A line over the whole height."""
    line = {"color": NEUTRAL, "dash": dash, "width": 2}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _bars(rows: Sequence[Row], title: str) -> go.Figure:
    """A figure with a line for each row, the first on top."""
    names = [literal(row.name) for row in rows]
    return _figure(
        xaxis=_axis(title, rangemode="tozero"),
        yaxis=_axis("", categoryorder="array", categoryarray=names[::-1], type="category"),
        height=110 + 30 * len(rows),
    )


def _log_where_wide(figure: go.Figure, values: Sequence[float]) -> None:
    """A log scale on the x axis where the greatest value is far from the least."""
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
    """A colour for each name; ``plain``: grey for fp32, the one that others are held against."""
    grey = {"fp32": NEUTRAL} if plain else {}
    return dict(zip([name for name in names if name not in grey], itertools.cycle(COLOURS))) | grey


def _measured(row: Row) -> bool:
    return row.error is None and row.latency_ms is not None


def _median(row: Row) -> float:
    return row.latency_ms.p50 if row.latency_ms else math.inf


def _gain(row: Row, labelled: bool) -> float:
    if labelled:
        return 100 * (row.top1 or 0.0)
    return ROUNDING_FLOOR_DB if row.sqnr_db is None else min(row.sqnr_db, ROUNDING_FLOOR_DB)


def _facts(row: Row) -> str:
    facts = [f"{figures(_median(row))} ms"]
    if row.size_bytes is not None:
        facts.append(f"{figures(row.size_bytes / 1e6)} MB")
    if row.top1 is not None:
        facts.append(f"top-1 {percent(row.top1)}%")
    facts.append(f"SQNR {decibels(row.sqnr_db)}")
    return ", ".join(facts)


def _short(value: float) -> float:
    """Five significant figures: more than a screen shows, and less to store."""
    return float(f"{value:.5g}")
