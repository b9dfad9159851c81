"""What is in a Program, as tables of at most 120 columns and as JSON."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zeropoint.graph.operators import short_name
from zeropoint.inspection.facts import Bias, Fused, Grid, Inspection, Layer, Pair, Weight
from zeropoint.report.figures import figures, percent

WIDTH = 120  # columns, where the output is no terminal
SCHEMA = 1
"""Version of the JSON; it goes up whenever a reader of the older one would misread the newer."""
NOTHING = "–"
MARK = "*"
LISTED = 6  # layers that a reason names
SCALES = 6  # in a line
_WHOLE = ("Weight scale", "kB", "Input: scale,\nzero point", "Bits\nW/A")
NAME = 24  # longer names of layers may take several lines
FAR = 3  # steps from the nearest integer, beyond which it was another weight that was rounded


def terminal(
    inspection: Inspection, before: Inspection | None = None, pairs: Sequence[Pair] = ()
) -> RenderableType:
    """One Program: a row for each layer with weights or quantizers, and why others stayed float.

    ``before`` is the float one that it was made from, and ``pairs`` are the layers of both.
    """
    shown = [layer for layer in inspection.layers if _is_shown(layer)]
    is_float = inspection.method in ("fp32", "bf16")
    reasons = _reasons(shown)
    sizes = {id(pair.after): pair.bytes_before for pair in pairs if pair.before}
    table = _float_table(shown) if is_float else _quantized_table(inspection, shown, reasons, sizes)
    total = before.bytes if before else None
    parts: list[RenderableType] = [Text(_title(inspection), style="bold"), _summary(inspection, total), table]
    if not is_float:
        parts += [Text(), *_why_float(shown, reasons)]
    parts += _notes(inspection, shown, pairs)
    return Group(*parts)


def compared(before: Inspection, after: Inspection, pairs: Sequence[Pair]) -> RenderableType:
    """Two Programs: those layers that differ, the first one's line above the second one's."""
    differ = [pair for pair in pairs if pair.changes and any(map(_is_shown, _both(pair)))]
    table = _table(
        ("Layer", "left"),
        ("Operator", "left"),
        ("", "left"),
        ("Bits\nW/A", "left"),
        ("Weight scale", "left"),
        ("Input: scale,\nzero point", "left"),
        ("kB", "right"),
        ("Differs in", "left"),
        longest=_longest(differ),
    )
    for pair in differ:
        sides = [("1", pair.before), ("2", pair.after)]
        named = False
        for side, layer in sides:
            if layer is None:
                continue
            size = pair.bytes_before if side == "1" else layer.bytes
            differs = "" if named else ", ".join(_told(pair.changes))
            table.add_row(
                "" if named else layer.name,
                "" if named else _operator(layer),
                side,
                _bits(layer),
                _weight_scale(layer),
                _input_grids(layer),
                _kilobytes(size) if layer.weights else NOTHING,
                differs,
            )
            named = True
    same = sum(not pair.changes for pair in pairs)
    head = [Text(f"{number}: {_title(one)}", style="bold") for number, one in ((1, before), (2, after))]
    sizes = f"parameters {_sizes(before.bytes, after.bytes)}"
    counts = f"{_count(len(differ), 'layer')} shown, which differ; the same in both: {same}"
    plain = _uncounted([layer for pair in pairs if pair.changes for layer in _both(pair)[-1:]])
    tail = [Text(plain, style="dim")] if plain else []
    body: list[RenderableType] = [table] if differ else []
    return Group(*head, Text(f"{sizes} · {counts}"), *body, *tail)


def in_full(inspections: Sequence[Inspection], pairs: Sequence[Pair]) -> RenderableType:
    """Every layer of the last Program with all its numbers; of two quantized ones, those of both.

    A float Program before it is there in the float numbers beside integers, and in the bytes before.
    """
    *first, last = inspections
    shown = [one for one in first if one.method != "fp32" or last.method == "fp32"] + [last]
    before = {id(pair.after): pair.bytes_before for pair in pairs if pair.before and len(shown) == 1}
    parts = [_in_full(layer, one, before.get(id(layer))) for one in shown for layer in one.layers]
    return Group(*parts) if parts else Text("only in the float model, not in the quantized one")


def _in_full(layer: Layer, inspection: Inspection, before: int | None = None) -> RenderableType:
    """One layer: its grids, every scale, weights and biases beside the integers kept.

    ``before`` are the bytes of the float layer.
    """
    state = {"integer": "in integers", "weights": "integer weights, float inputs", "float": "in float"}
    size = f"{before if before is not None else layer.float_bytes:,} → {layer.bytes:,} bytes"
    lines = [
        Text(f"{layer.name} · {_operator(layer)} · {state[layer.state]}", style="bold"),
        Text(f"of {_title(inspection)}", style="dim"),
        Text(
            f"output {_shape(layer.output[1:])} for one item · {layer.macs:,} multiply-accumulates · {size}"
        ),
    ]
    if layer.why:
        lines.append(Text(f"stayed float: {layer.why}", style="yellow"))
    lines += [Text(f"inside: {_named(fused)}: {fused.how}") for fused in layer.fused]
    lines += [Text(f"input from {part.source}: {_described(part.grid)}") for part in layer.inputs]
    lines += [Text(f"output rounded to: {_described(grid)}") for grid in layer.outputs]
    parts: list[RenderableType] = list(lines)
    for weight in layer.weights:
        parts += _weight_in_full(weight, inspection)
    if layer.bias:
        parts += _bias_in_full(layer.bias)
    return Group(*parts, Text())


def record(inspections: Sequence[Inspection], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Everything as plain values for JSON, NaN and infinity as None."""
    return {
        "schema": SCHEMA,
        "models": [_plain(inspection) for inspection in inspections],
        "differences": [
            {
                "name": pair.name,
                "operator": (pair.after or pair.before).operator,  # type: ignore[union-attr]
                "changes": list(pair.changes),
                "folded": [layer.name for layer in pair.folded],
                "bytes": [pair.bytes_before, pair.after.bytes if pair.after else 0],
            }
            for pair in pairs
        ],
    }


def _plain(part: Any) -> Any:
    """Dataclasses with the properties that are worth a number, and no NaN."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {field.name: _plain(getattr(part, field.name)) for field in dataclasses.fields(part)}
        if isinstance(part, Layer):
            fields |= {"weight_bits": part.weight_bits, "input_bits": _plain(part.input_bits)}
            fields["float_bytes"] = part.float_bytes
        if isinstance(part, Inspection):
            fields["integer_macs"] = part.integer_macs
        if isinstance(part, Grid):
            fields["range"] = _plain(part.range)
        return fields
    if isinstance(part, list | tuple):
        return [_plain(item) for item in part]
    return None if isinstance(part, float) and not math.isfinite(part) else part


def _is_shown(layer: Layer) -> bool:
    """Whether a layer has a row of its own: for weights, products or quantizers."""
    rounded = any(part.grid for part in layer.inputs) or layer.outputs
    return bool(layer.weights or layer.macs or rounded or layer.fused)


def _both(pair: Pair) -> list[Layer]:
    return [layer for layer in (pair.before, pair.after) if layer is not None]


def _table(*columns: tuple[str, str], longest: int = 0) -> Table:
    """``longest``: the longest name of a layer."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for header, justify in columns:
        whole = header in _WHOLE or (header == "Layer" and longest <= NAME)  # in one line
        table.add_column(header, justify=justify, overflow="fold", no_wrap=whole)  # type: ignore[arg-type]
    return table


def _longest(named: Sequence[Layer] | Sequence[Pair]) -> int:
    return max((len(one.name) for one in named), default=0)


def _float_table(layers: Sequence[Layer]) -> Table:
    columns = [
        ("Layer", "left"), ("Operator", "left"), ("Weight", "left"), ("Output", "left"), ("Type", "left"),
        ("Bytes", "right"), ("Multiply-\naccumulates", "right"),
    ]  # fmt: skip
    has_inside = any(layer.fused for layer in layers)
    table = _table(*columns, *[("Inside", "left")] * has_inside, longest=_longest(layers))
    for layer in layers:
        table.add_row(
            layer.name,
            _operator(layer),
            _weight_shape(layer),
            _shape(layer.output[1:]),
            layer.weight.dtype if layer.weight else layer.dtype,
            f"{layer.bytes:,}",
            f"{layer.macs:,}" if layer.macs else NOTHING,
            *[_inside(layer)] * has_inside,
        )
    return table


def _inside(layer: Layer) -> str:
    return "+".join({"batch_norm": "bn"}.get(fused.operator, fused.operator) for fused in layer.fused)


def _quantized_table(
    inspection: Inspection, layers: Sequence[Layer], reasons: dict[str, int], before: dict[int, int]
) -> Table:
    columns = [
        ("Layer", "left"), ("Operator", "left"), ("Weight", "left"), ("Output", "left"),
        ("Bits\nW/A", "left"), ("Weight scale", "left"), ("Input: scale,\nzero point", "left"),
        ("kB", "right"), ("Inside,\nwhy float", "left"),
    ]  # fmt: skip
    has_nearest = any(layer.weight and layer.weight.nearest is not None for layer in layers)
    if has_nearest:
        columns.insert(6, ("Nearest\n%", "right"))
    table = _table(*columns, longest=_longest(layers))
    for layer in layers:
        note = f"{_inside(layer)} ({reasons[layer.why]})" if layer.why else _inside(layer)
        cells = [
            layer.name,
            _operator(layer),
            _weight_shape(layer),
            _shape(layer.output[1:]),
            _bits(layer),
            _weight_scale(layer),
            _input_grids(layer),
            _kilobytes(before.get(id(layer), layer.float_bytes), layer.bytes) if layer.bytes else NOTHING,
            note.strip(),
        ]
        if has_nearest:
            near = layer.weight.nearest if layer.weight else None
            cells.insert(6, NOTHING if near is None else _whole_percent(near))
        table.add_row(*cells, style="" if layer.state == "integer" else "yellow")
    return table


def _title(inspection: Inspection) -> str:
    method = inspection.method
    if method not in ("fp32", "bf16"):
        method += f" W{inspection.weight_bits}A{inspection.activation_bits} for {inspection.target}"
        method += f" on {inspection.processor}" if inspection.processor else ""
    skipped = f"skipped: {', '.join(inspection.skip)}" if inspection.skip else ""
    return " · ".join(part for part in (inspection.origin, method, skipped) if part)


def _summary(inspection: Inspection, before: int | None) -> Text:
    sizes = _sizes(inspection.bytes) if before is None else _sizes(before, inspection.bytes)
    parts = [f"{inspection.parameters:,} parameters in {sizes}", f"{inspection.macs:,} multiply-accumulates"]
    if inspection.macs and inspection.method not in ("fp32", "bf16"):
        parts[1] += f", {percent(inspection.integer_macs / inspection.macs)}% in integers"
    if any("lstm" in layer.operator or "gru" in layer.operator for layer in inspection.layers):
        parts[1] += " (without those inside recurrent layers)"
    return Text(" · ".join(parts))


def _reasons(layers: Iterable[Layer]) -> dict[str, int]:
    """Why layers stayed float, numbered in the order of the network."""
    found = dict.fromkeys(layer.why for layer in layers if layer.why)
    return {reason: number for number, reason in enumerate(found, 1)}


def _why_float(layers: Sequence[Layer], reasons: dict[str, int]) -> list[RenderableType]:
    names: dict[str, list[str]] = {}
    for layer in layers:
        if layer.why:
            names.setdefault(layer.why, []).append(layer.name)
    return [
        Text(f"({number}) stayed float: {reason}: {_listed(names[reason])}", style="yellow")
        for reason, number in reasons.items()
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"


def _notes(inspection: Inspection, shown: Sequence[Layer], pairs: Sequence[Pair]) -> list[RenderableType]:
    """What the table leaves out, and how its columns read."""
    notes = []
    if left_out := _uncounted(inspection.layers):
        notes.append(left_out)
    if strangers := [
        pair.name for pair in pairs if pair.before is None and pair.after and pair.after.weights
    ]:
        notes.append(f"not in the float model, is it the same one? {_listed(strangers)}")
    if inspection.method in ("fp32", "bf16"):
        return [Text(note, style="dim") for note in notes]
    if inspection.float_weights:
        notes.append(
            f"Nearest: integers that are the weights of {inspection.float_weights}, rounded to nearest;"
            " others were fitted to data or trained"
        )
        far = [layer.name for layer in shown if any((w.furthest or 0) > FAR for w in layer.weights)]
        if far:
            notes.append(
                f"integers more than {FAR} steps from nearest: {_listed(far)}: trained, fitted at few bits,"
                " or channels scaled or reordered with those of other layers before rounding"
            )
    elif any(weight.grid for layer in shown for weight in layer.weights):
        notes.append("the file holds no float weights: give the float model first to see them beside")
    notes.append("real = scale × (integer − zero point); --layer NAME shows one layer in full")
    return [Text(note, style="dim") for note in notes]


def _kilobytes(*sizes: int) -> str:
    return "→".join(figures(size / 1e3) for size in sizes)


def _told(changes: Sequence[str]) -> list[str]:
    """Without what the columns show anyway, and scales that other bits bring with them."""
    implied = {"bytes"} | {change.replace("bits", "scale") for change in changes if change.endswith("bits")}
    return [change for change in changes if change not in implied] or list(changes)


def _uncounted(layers: Iterable[Layer]) -> str:
    """The operators without rows, as "7 × relu"."""
    counted = Counter(_operator(layer) for layer in layers if not _is_shown(layer))
    listed = ", ".join(f"{count} × {name}" for name, count in counted.most_common())
    return f"not listed, without weights and quantizers: {listed}" if listed else ""


def _weight_in_full(weight: Weight, inspection: Inspection) -> list[RenderableType]:
    parts: list[RenderableType] = [Text()]
    name, count = f"{weight.name}, {_shape(weight.shape)}", math.prod(weight.shape)
    if weight.grid is None:
        values = ", ".join(_exact(value.value) for value in weight.values)
        more = ", …" if count > len(weight.values) else ""
        return [*parts, Text(f"{name}: {weight.dtype}, {weight.bytes:,} bytes: {values}{more}")]
    parts.append(Text(f"{name}: {_described(weight.grid)}, {weight.bytes:,} bytes", style="bold"))
    if len(weight.grid.scale) > 1:
        parts += _scales(weight.grid)
    if weight.nearest is not None:
        off = "" if weight.nearest == 1 else f"; others are up to {_count(weight.furthest or 0, 'step')} off"
        source = f"the weights of {inspection.float_weights}, rounded to nearest"
        parts.append(Text(f"  {percent(weight.nearest)}% of its integers are {source}{off}"))
    sourced = [(value.source, value.scale) for value in weight.values]
    columns = {
        "index": [str(list(value.index)) for value in weight.values],
        "float": [_exact(value.source) for value in weight.values],
        "scale": [_exact(value.scale) for value in weight.values],
        "float / scale": [_ratio(*pair) for pair in sourced],
        "rounded": [_whole(value.nearest) for value in weight.values],
        "integer": [_marked(value.integer, value.nearest) for value in weight.values],
        "scale × (integer − zero point)": [_exact(value.value) for value in weight.values],
    }
    parts.append(_side_by_side(columns))
    if len(weight.values) < count:
        shown = f"  the first {len(weight.values)} of {count:,} values; --values N lists more"
        parts.append(Text(shown, style="dim"))
    if any(value.nearest not in (None, value.integer) for value in weight.values):
        meaning = f"  {MARK} not the nearest: fitted to data, trained, or scaled before it was rounded"
        parts.append(Text(meaning, style="dim"))
    return parts


def _side_by_side(columns: dict[str, list[str]]) -> RenderableType:
    """The columns that hold anything."""
    known = {header: cells for header, cells in columns.items() if set(cells) != {NOTHING}}
    table = _table(*((header, "right" if number else "left") for number, header in enumerate(known)))
    for cells in zip(*known.values(), strict=True):
        table.add_row(*cells)
    return Padding(table, (0, 0, 0, 2))


def _ratio(value: float | None, unit: float | None) -> str:
    return f"{value / unit:.4f}" if value is not None and unit else NOTHING


def _whole(number: int | None) -> str:
    return NOTHING if number is None else str(number)


def _marked(number: int | None, expected: int | None) -> str:
    """A whole number, marked where another one was expected."""
    return f"{MARK if expected not in (None, number) else ''}{_whole(number)}"


def _named(fused: Fused) -> str:
    return f"{fused.operator} '{fused.module}'" if fused.module else fused.operator


def _scales(grid: Grid) -> list[RenderableType]:
    """Every scale, so many in a line, behind the number of the first channel."""
    affine = any(zero_point != grid.zero_point[0] for zero_point in grid.zero_point)
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(SCALES + 1):
        table.add_column(justify="right")
    cells = [
        f"{_exact(scale)} ({zero_point})" if affine else _exact(scale)
        for scale, zero_point in zip(grid.scale, grid.zero_point, strict=True)
    ]
    for start in range(0, len(cells), SCALES):
        table.add_row(f"{start}:", *cells[start : start + SCALES])
    what = "groups" if grid.granularity == "per-group" else "channels"
    zero = " (zero point in brackets)" if affine else ""
    return [Text(f"  scales of its {len(cells)} {what}{zero}:"), Padding(table, (0, 0, 0, 2))]


def _bias_in_full(bias: Bias) -> list[RenderableType]:
    head = f"{bias.name}, {bias.size}: float32"
    if bias.whole is not None:
        head = f"{bias.name}, {bias.size}: int32 in units of input scale × weight scale"
        head += "" if bias.whole else "; not all are whole units, engines round them"
    values = bias.values
    columns = {
        "channel": [str(value.channel) for value in values],
        "float": [_exact(value.source) for value in values],
        "unit": [_exact(value.unit) for value in values],
        "float / unit": [_ratio(value.source, value.unit) for value in values],
        "units": [_marked(value.units, value.nearest) for value in values],
        "units × unit" if bias.whole else "bias": [_exact(value.value) for value in values],
    }
    tail = []
    if len(values) < bias.size:
        tail.append(f"  the first {len(values)} of {bias.size:,} values; --values N lists more")
    if any(value.nearest not in (None, value.units) for value in values):
        tail.append(f"  {MARK} not the nearest: corrected for what rounding the weights does, or trained")
    notes = [Text(line, style="dim") for line in tail]
    return [Text(), Text(head, style="bold"), _side_by_side(columns), *notes]


def _described(grid: Grid | None) -> str:
    """A grid in words, with its numbers where it has one scale."""
    if grid is None:
        return "float"
    kind = f"{grid.bits} bits, {'signed' if grid.signed else 'unsigned'}"
    kind += f" {'symmetric' if grid.symmetric else 'affine'}, {grid.granularity}"
    if len(grid.scale) > 1 and grid.granularity == "per-channel":
        kind += f" along axis {grid.axis}"
    kind += f", integers {grid.qmin} to {grid.qmax}"
    if len(grid.scale) == 1 and grid.range:
        low, high = grid.range
        kind += f", scale {_exact(grid.scale[0])}, zero point {grid.zero_point[0]}: {low:.5g} to {high:.5g}"
    elif grid.scale and len(set(grid.zero_point)) == 1:
        kind += f", zero point {grid.zero_point[0]}"
    return kind


def _weight_scale(layer: Layer) -> str:
    weight = layer.weight
    if weight is None or weight.grid is None:
        return NOTHING
    scale, zero_point = weight.grid.scale, weight.grid.zero_point
    return f"{_span(scale)}, {_span(zero_point)}" if any(zero_point) else _span(scale)


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"


def _input_grids(layer: Layer) -> str:
    """The grids of the inputs, one in a line."""
    lines = []
    for grid in (part.grid for part in layer.inputs):
        if grid is None:
            lines.append("float")
        elif not grid.scale:
            lines.append("at run time")
        else:
            lines.append(f"{_span(grid.scale)}, {grid.zero_point[0]}")
    return "\n".join(lines) or NOTHING


def _bits(layer: Layer) -> str:
    """Bits of weight and inputs, as in 8/8."""
    inputs = sorted(set(layer.input_bits))
    weight = NOTHING if layer.weight_bits is None else str(layer.weight_bits)
    return f"{weight}/{'+'.join(map(str, inputs)) or NOTHING}"


def _operator(layer: Layer) -> str:
    return short_name(layer.operator)


def _weight_shape(layer: Layer) -> str:
    return _shape(layer.weight.shape) if layer.weight else NOTHING


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _exact(value: float | None) -> str:
    """Digits enough to tell a float32 from its neighbours."""
    return NOTHING if value is None else f"{value:.9g}"


def _whole_percent(fraction: float) -> str:
    """Rounded down: 100 is all."""
    return str(int(100 * fraction))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sizes(*sizes: int) -> str:
    """One size, or before and after; in bytes where megabytes would read as 0.000."""
    if max(sizes) < 100_000:
        return f"{' → '.join(f'{size:,}' for size in sizes)} bytes"
    return f"{' → '.join(figures(size / 1e6) for size in sizes)} MB"
