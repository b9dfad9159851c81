"""Charts of a quantized Program's layers: error along the network, values and ranges beside their grids.

Pages of layers take figures as Plotly's JSON: a go.Figure takes 10 ms to check, and a report has hundreds.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from zeropoint.measure.layers import Distribution, Layers
from zeropoint.report.charts import COLOURS, NEUTRAL, SYMBOLS, axis, figure_of, layout_of, literal

CLIPPED = "#D55E00"
GRID = "#CC79A7"
DASHES = ("solid", "dash", "dot", "dashdot")

MAX_LEVELS = 256  # grid points that are drawn one by one
MAX_CHANNELS = 128  # bars of ranges; neighbouring channels of wider layers share one
LONG = 200  # layers from which a line is drawn without its markers

Plain = dict[str, Any]
"""A figure, or a part of one, as Plotly's JSON."""


def errors(programs: Sequence[tuple[Layers, Sequence[int]]]) -> go.Figure:
    """SQNR along the network, a line for each quantized Program.

    ``programs``: each with the places (from 1) at which its layers stand on the x axis. A trace's ``meta`` is
    its number; a layer that is as good as float has no point.
    """
    figure = figure_of(
        xaxis=axis("layer, in the order of the network"),
        yaxis=axis("SQNR of the layer's output (dB)"),
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

    Bars beyond the range are in the colour of clipping. Lines mark the range: the widest, and if channels
    differ the narrowest one, dotted. Ticks below are the grid, or that of the median scale.
    """
    ranges = grid_ranges(distribution)
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    limits = [(low, "solid"), (high, "solid")]
    if len(ranges) > 1:
        limits += [(max(low for low, _ in ranges), "dot"), (min(high for _, high in ranges), "dot")]
    layout = layout_of(
        shapes=[_vertical(_short(value), dash) for value, dash in limits],
        xaxis=axis(f"{what}, value", anchor="y2"),
        yaxis=axis(
            "values per bin (log scale)", domain=[0.1, 1], type="log", dtick=1, exponentformat="power"
        ),
        yaxis2={"domain": [0, 0.07], "range": [-1, 1], "visible": False, "fixedrange": True},
        height=300,
        bargap=0,
    )
    return {"data": [*_bars(distribution, low, high), *_ticks(distribution)], "layout": layout}


def _bars(distribution: Distribution, low: float, high: float) -> list[Plain]:
    """The bins within the range from ``low`` to ``high``, and those beyond it."""
    width = (distribution.high - distribution.low) / max(len(distribution.counts), 1)
    bins = [
        (distribution.low + (i + 0.5) * width, count) for i, count in enumerate(distribution.counts) if count
    ]
    within = [one for one in bins if low - width / 2 < one[0] < high + width / 2]
    clipped = [one for one in bins if one not in within]
    return [
        {
            "type": "bar",
            "x": [_short(centre) for centre, _ in kept],
            "y": [count for _, count in kept],
            "width": _short(width) or None,
            "name": name,
            "marker": {"color": colour, "line": {"width": 0}},
            "hovertemplate": "%{x}: %{y}<extra></extra>",
        }
        for name, colour, kept in (("within the range", COLOURS[1], within), ("clipped", CLIPPED, clipped))
        if kept
    ]


def _ticks(distribution: Distribution) -> list[Plain]:
    """A tick for each value of the grid, or of the grid with the median scale; none for a fine grid."""
    levels = distribution.qmax - distribution.qmin + 1
    if levels > MAX_LEVELS:
        return []
    pairs = sorted(zip(distribution.scale, distribution.zero_point, strict=False))
    scale, zero_point = pairs[len(pairs) // 2]
    return [
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
    ]


def channel_ranges(distribution: Distribution) -> Plain | None:
    """Least to greatest weight of each channel, and the limits of its grid; None without channels.

    Neighbours share a bar if there are more than MAX_CHANNELS.
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
    if len(ranges) == count:  # with a scale for each group of inputs a channel has several grids
        for limit, pick in enumerate((min, max)):
            traces.append(
                {
                    "type": "scatter",
                    "dx": step,
                    "y": [_short(pick(one[limit] for one in ranges[i : i + step])) for i in starts],
                    "mode": "lines" if count > 1 else "markers",
                    "line": {"color": GRID, "shape": "hvh", "width": 1.5},
                    "name": "limits of the grid",
                    "showlegend": limit == 0,
                    "legendgroup": "grid",
                    "hovertemplate": "%{y}<extra>limit of the grid</extra>",
                }
            )
    layout = layout_of(
        xaxis=axis("output channel" if step == 1 else f"output channel, {step} to a bar"),
        yaxis=axis("weight"),
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


def worst_first(layers: Layers) -> list[int]:
    """The places of the layers by SQNR, the lowest first; those as good as float come last."""
    sqnrs = [math.inf if layer.sqnr_db is None else layer.sqnr_db for layer in layers.layers]
    return sorted(range(len(sqnrs)), key=sqnrs.__getitem__)


def _vertical(x: float, dash: str) -> dict[str, object]:
    """A line over the whole height."""
    line = {"color": NEUTRAL, "dash": dash, "width": 2}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _short(value: float) -> float:
    """Five significant figures: more than a screen shows, and less to store."""
    return float(f"{value:.5g}")
