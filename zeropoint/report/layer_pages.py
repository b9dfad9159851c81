"""The report's table of layers, and what the page of each layer shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zeropoint.measure.layers import Distribution, Layer, Layers
from zeropoint.report.figures import decibels, percent
from zeropoint.report.layer_charts import channel_ranges, histogram


@dataclass(frozen=True)
class LayerRow:
    """A layer of a run: its place in the network, and per Program its SQNR and the address of its page."""

    place: int
    name: str
    operator: str
    macs: int
    cells: list[tuple[str, str]]


def layer_table(run: int, programs: Sequence[Layers], paged: Sequence[set[int]]) -> list[LayerRow]:
    """A row for each layer in any of the Programs, in the order of the network.

    Equal names are distinguished by order. ``paged``: for each Program the layers with a page, by index.
    """
    places = layer_places(programs)
    rows: dict[int, LayerRow] = {}
    for number, layers in enumerate(programs):
        for i, (layer, place) in enumerate(zip(layers.layers, places[number], strict=True)):
            if place not in rows:
                absent = [("", "")] * len(programs)
                rows[place] = LayerRow(place, layer.name, layer.operator, layer.macs, absent)
            address = layer_address(run, number, place) if i in paged[number] else ""
            rows[place].cells[number] = (_sqnr(layer), address)
    return [rows[place] for place in sorted(rows)]


def layer_places(programs: Sequence[Layers]) -> list[list[int]]:
    """For each Program the places of its layers, from 1; equal names share one."""
    places: dict[tuple[str, int], int] = {}
    found: dict[int, list[int]] = {}
    for number in sorted(range(len(programs)), key=lambda i: -len(programs[i].layers)):
        seen: dict[str, int] = {}
        found[number] = []
        for layer in programs[number].layers:
            seen[layer.name] = seen.get(layer.name, 0) + 1
            found[number].append(places.setdefault((layer.name, seen[layer.name]), len(places) + 1))
    return [found[number] for number in range(len(programs))]


def layer_address(run: int, program: int, place: int) -> str:
    """What follows # in the address of a layer's page."""
    return f"layer-{run}-{program}-{place}"


def layer_page(program: str, layer: Layer) -> dict[str, Any]:
    """What a layer's page shows: name, facts and charts."""
    facts = [
        ["Program", program],
        ["Operator", layer.operator],
        ["SQNR of its output", decibels(layer.sqnr_db)],
        ["MACs of one item", f"{layer.macs:,}"],
        ["Weight", _grid(layer.weight)],
        ["Input", _grid(layer.input)],
    ]
    figures = []
    for part, distribution in (("Weight", layer.weight), ("Input", layer.input)):
        if distribution is not None:
            span = f"from {distribution.low:.4g} to {distribution.high:.4g}"
            words = f"Histogram {span}; {_grid(distribution)}."
            figures.append([f"{part}: values and grid", words, histogram(distribution, part.lower())])
    ranges = channel_ranges(layer.weight) if layer.weight else None
    if layer.weight and ranges:
        words = f"Range of the weights in {len(layer.weight.channels)} channels, and the limits of the grids."
        figures.append(["Weight: range of each channel", words, ranges])
    return {"name": layer.name, "facts": facts, "figures": figures}


def worst_rows(rows: Sequence[LayerRow], count: int) -> list[LayerRow]:
    """At most ``count`` rows, those with the lowest SQNR in any Program, in the order of the network."""

    def lowest(row: LayerRow) -> float:
        return min((float(text) for text, _ in row.cells if text not in ("", "∞")), default=math.inf)

    return sorted(sorted(rows, key=lowest)[:count], key=lambda row: row.place)


def _sqnr(layer: Layer) -> str:
    return "∞" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}"


def _grid(distribution: Distribution | None) -> str:
    """The grid in words."""
    if distribution is None:
        return "stays float"
    scales = len(distribution.scale)
    each = f"{scales} scales" if scales > 1 else f"scale {distribution.scale[0]:.4g}"
    clipped = f"{percent(distribution.clipped)}% clipped"
    return f"{distribution.bits} bits, integers {distribution.qmin} to {distribution.qmax}, {each}, {clipped}"
