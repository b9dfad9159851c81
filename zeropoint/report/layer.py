"""One layer of a Program with all its numbers: grids, scales, and floats beside the integers kept."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zeropoint.graph.operators import short_name
from zeropoint.inspection.facts import Bias, BiasValue, Grid, Inspection, Layer, Value, Weight
from zeropoint.report.columns import Column, table
from zeropoint.report.figures import NOTHING, count, known, percent

MARK = "*"
SCALES = 70  # columns of the terminal that a line of scales fills
STATES = {"integer": "in integers", "weights": "integer weights, float inputs", "float": "in float"}

_V = TypeVar("_V", Value, BiasValue)


def title(inspection: Inspection) -> str:
    """Where a Program is from, and how it was quantized."""
    method = inspection.method
    if method not in ("fp32", "bf16"):
        method += f" W{inspection.weight_bits}A{inspection.activation_bits} for {inspection.target}"
        method += f" on {inspection.processor}" if inspection.processor else ""
    skipped = f"skipped: {', '.join(inspection.skip)}" if inspection.skip else ""
    return " · ".join(part for part in (inspection.origin, method, skipped) if part)


def operator(layer: Layer) -> str:
    """The short name of a layer's operator."""
    return short_name(layer.operator)


def shape(sizes: Sequence[int]) -> str:
    """A shape, as in 3×8×8."""
    return "×".join(map(str, sizes)) or "scalar"


def layer_in_full(layer: Layer, inspection: Inspection, before: int | None = None) -> RenderableType:
    """One layer: its grids, every scale, weights and biases beside the integers kept.

    ``before``: the bytes of the float layer.
    """
    size = f"{layer.float_bytes if before is None else before:,} → {layer.bytes:,} bytes"
    lines = [
        Text(f"{layer.name} · {operator(layer)} · {STATES[layer.state]}", style="bold"),
        Text(f"of {title(inspection)}", style="dim"),
        Text(f"output {shape(layer.output[1:])} for one item · {layer.macs:,} multiply-accumulates · {size}"),
    ]
    if layer.why:
        lines.append(Text(f"stayed float: {layer.why}", style="yellow"))
    for fused in layer.fused:
        module = f" '{fused.module}'" if fused.module else ""
        lines.append(Text(f"inside: {fused.operator}{module}: {fused.how}"))
    lines += [Text(f"input from {part.source}: {_described(part.grid)}") for part in layer.inputs]
    lines += [Text(f"output rounded to: {_described(grid)}") for grid in layer.outputs]
    weights = [part for weight in layer.weights for part in _weight(weight, inspection)]
    return Group(*lines, *weights, *(_bias(layer.bias) if layer.bias else ()), Text())


def _weight(weight: Weight, inspection: Inspection) -> list[RenderableType]:
    name, size = f"{weight.name}, {shape(weight.shape)}", math.prod(weight.shape)
    if weight.grid is None:
        values = ", ".join(_exact(value.value) for value in weight.values)
        more = ", …" if size > len(weight.values) else ""
        return [Text(), Text(f"{name}: {weight.dtype}, {weight.bytes:,} bytes: {values}{more}")]
    head = f"{name}: {_described(weight.grid)}, {weight.bytes:,} bytes"
    parts: list[RenderableType] = [Text(), Text(head, style="bold")]
    if len(weight.grid.scale) > 1:
        parts += _scales(weight.grid)
    if weight.nearest is not None:
        off = "" if weight.nearest == 1 else f"; others are up to {count(weight.furthest or 0, 'step')} off"
        source = f"the weights of {inspection.float_weights}, rounded to nearest"
        parts.append(Text(f"  {percent(weight.nearest)}% of its integers are {source}{off}"))
    columns: list[Column[Value]] = [
        Column("index", lambda value: str(list(value.index))),
        Column("float", lambda value: _exact(value.source), "right"),
        Column("scale", lambda value: _exact(value.scale), "right"),
        Column("float / scale", lambda value: _ratio(value.source, value.scale), "right"),
        Column("rounded", lambda value: known(value.nearest), "right"),
        Column("integer", lambda value: _marked(value.integer, value.nearest), "right"),
        Column("scale × (integer − zero point)", lambda value: _exact(value.value), "right"),
    ]
    moved = any(value.nearest not in (None, value.integer) for value in weight.values)
    why = "fitted to data, trained, or scaled before it was rounded" if moved else ""
    return parts + _values(columns, weight.values, size, why)


def _bias(bias: Bias) -> list[RenderableType]:
    head = f"{bias.name}, {bias.size}: float32"
    if bias.whole is not None:
        head = f"{bias.name}, {bias.size}: int32 in units of input scale × weight scale"
        head += "" if bias.whole else "; not all are whole units, engines round them"
    columns: list[Column[BiasValue]] = [
        Column("channel", lambda value: str(value.channel)),
        Column("float", lambda value: _exact(value.source), "right"),
        Column("unit", lambda value: _exact(value.unit), "right"),
        Column("float / unit", lambda value: _ratio(value.source, value.unit), "right"),
        Column("units", lambda value: _marked(value.units, value.nearest), "right"),
        Column("units × unit" if bias.whole else "bias", lambda value: _exact(value.value), "right"),
    ]
    moved = any(value.nearest not in (None, value.units) for value in bias.values)
    why = "corrected for the error of rounding the weights, or trained" if moved else ""
    return [Text(), Text(head, style="bold"), *_values(columns, bias.values, bias.size, why)]


def _values(
    columns: Sequence[Column[_V]], values: Sequence[_V], size: int, moved: str
) -> list[RenderableType]:
    """The first ``values`` of ``size``, in the columns that hold anything; why some are not the nearest."""
    held = [
        replace(column, whole=True)
        for column in columns
        if not values or any(column.cell(one) != NOTHING for one in values)
    ]
    notes: list[str] = []
    if len(values) < size:
        notes.append(f"  the first {len(values)} of {size:,} values; --values N lists more")
    if moved:
        notes.append(f"  {MARK} not the nearest: {moved}")
    return [Padding(table(held, values), (0, 0, 0, 2)), *(Text(note, style="dim") for note in notes)]


def _scales(grid: Grid) -> list[RenderableType]:
    """Every scale, several in a line, after the number of the first channel."""
    affine = any(zero_point != grid.zero_point[0] for zero_point in grid.zero_point)
    cells = [
        f"{_exact(scale)} ({zero_point})" if affine else _exact(scale)
        for scale, zero_point in zip(grid.scale, grid.zero_point, strict=True)
    ]
    together = max(1, SCALES // (max(map(len, cells)) + 2))
    lines = Table.grid(*[""] * (together + 1), padding=(0, 2, 0, 0))
    for column in lines.columns:
        column.justify = "right"
    for start in range(0, len(cells), together):
        lines.add_row(f"{start}:", *cells[start : start + together])
    what = "groups" if grid.granularity == "per-group" else "channels"
    zero = " (zero point in brackets)" if affine else ""
    return [Text(f"  scales of its {len(cells)} {what}{zero}:"), Padding(lines, (0, 0, 0, 2))]


def _described(grid: Grid | None) -> str:
    """A grid in words, with its numbers if it has one scale."""
    if grid is None:
        return "float"
    words = f"{grid.bits} bits, {'signed' if grid.signed else 'unsigned'}"
    words += f" {'symmetric' if grid.symmetric else 'affine'}, {grid.granularity}"
    if len(grid.scale) > 1 and grid.granularity == "per-channel":
        words += f" along axis {grid.axis}"
    words += f", integers {grid.qmin} to {grid.qmax}"
    if len(grid.scale) == 1 and grid.range:
        low, high = grid.range
        words += f", scale {_exact(grid.scale[0])}, zero point {grid.zero_point[0]}: {low:.5g} to {high:.5g}"
    elif grid.scale and len(set(grid.zero_point)) == 1:
        words += f", zero point {grid.zero_point[0]}"
    return words


def _ratio(value: float | None, unit: float | None) -> str:
    return f"{value / unit:.4f}" if value is not None and unit else NOTHING


def _marked(number: int | None, expected: int | None) -> str:
    """A whole number, marked if another one was expected."""
    return f"{MARK if expected not in (None, number) else ''}{known(number)}"


def _exact(value: float | None) -> str:
    """Digits enough to distinguish a float32 from its neighbours."""
    return known(value, lambda number: f"{number:.9g}")
