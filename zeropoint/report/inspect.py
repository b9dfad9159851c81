"""What is in a Program, as tables of at most 120 columns and as JSON."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from zeropoint.inspection.facts import Grid, Inspection, Layer, Pair
from zeropoint.report.columns import Column, table
from zeropoint.report.figures import NOTHING, count, figures, known, megabytes, percent, whole_percent
from zeropoint.report.layer import layer_in_full, operator, shape, title

WIDTH = 120  # columns, if the output is no terminal
SCHEMA = 1
"""Version of the JSON; it goes up whenever a reader of the older one would misread the newer."""
LISTED = 6  # layers that a reason names
NAME = 24  # longer names of layers may take several lines
FAR = 3  # steps from the nearest integer, beyond which it was another weight that was rounded
UNQUANTIZED = ("fp32", "bf16")


def terminal(
    inspection: Inspection, before: Inspection | None = None, pairs: Sequence[Pair] = ()
) -> RenderableType:
    """One Program: a row for each layer with weights or quantizers, and why others stayed float.

    ``before`` is the float one that it was made from, and ``pairs`` are the layers of both.
    """
    shown = [layer for layer in inspection.layers if _is_shown(layer)]
    reasons = list(dict.fromkeys(layer.why for layer in shown if layer.why))
    parts: list[RenderableType] = [Text(title(inspection), style="bold"), _summary(inspection, before)]
    if inspection.method in UNQUANTIZED:
        parts.append(table(_float_columns(shown), shown))
    else:
        sizes = {id(pair.after): pair.bytes_before for pair in pairs if pair.before}
        columns = _quantized_columns(shown, reasons, sizes)
        parts += [table(columns, shown, style=lambda layer: "" if layer.state == "integer" else "yellow")]
        parts += [Text(), *_why_float(shown, reasons)]
    return Group(*parts, *(Text(note, style="dim") for note in _notes(inspection, shown, pairs)))


@dataclass(frozen=True)
class _Side:
    """A line of a comparison: a layer in one of the two Programs. ``first``: it is the pair's first line."""

    pair: Pair
    number: int
    layer: Layer
    first: bool

    @property
    def bytes(self) -> int:
        return self.pair.bytes_before if self.number == 1 else self.layer.bytes


def compared(before: Inspection, after: Inspection, pairs: Sequence[Pair]) -> RenderableType:
    """Two Programs: those layers that differ, the first one's line above the second one's."""
    changed = [pair for pair in pairs if pair.changes]
    differ = [pair for pair in changed if any(map(_is_shown, _both(pair)))]
    sides = []
    for pair in differ:
        present = [(n, layer) for n, layer in ((1, pair.before), (2, pair.after)) if layer is not None]
        sides += [_Side(pair, n, layer, layer is present[0][1]) for n, layer in present]
    columns: list[Column[_Side]] = [
        Column("Layer", lambda side: side.layer.name if side.first else "", whole=_are_short(differ)),
        Column("Operator", lambda side: operator(side.layer) if side.first else ""),
        Column("", lambda side: str(side.number)),
        *(_of_side(column) for column in (_BITS, _SCALE, _INPUT)),
        Column("kB", lambda s: _kilobytes(s.bytes) if s.layer.weights else NOTHING, "right", whole=True),
        Column("Differs in", lambda side: ", ".join(_told(side.pair.changes)) if side.first else ""),
    ]
    head = [Text(f"{number}: {title(one)}", style="bold") for number, one in ((1, before), (2, after))]
    same = len(pairs) - len(changed)
    counts = f"{count(len(differ), 'layer')} shown, which differ; the same in both: {same}"
    plain = _uncounted([layer for pair in changed for layer in _both(pair)[-1:]])
    body: list[RenderableType] = [table(columns, sides)] if differ else []
    tail = [Text(plain, style="dim")] if plain else []
    return Group(*head, Text(f"parameters {_sizes(before.bytes, after.bytes)} · {counts}"), *body, *tail)


def _of_side(column: Column[Layer]) -> Column[_Side]:
    return Column(column.header, lambda side: column.cell(side.layer), column.justify, column.whole)


def in_full(inspections: Sequence[Inspection], pairs: Sequence[Pair]) -> RenderableType:
    """Every layer of the last Program with all its numbers; of two quantized ones, those of both.

    A float Program before it shows in the float numbers beside integers, and in the bytes before.
    """
    *first, last = inspections
    shown = [one for one in first if one.method != "fp32" or last.method == "fp32"] + [last]
    before = {id(pair.after): pair.bytes_before for pair in pairs if pair.before and len(shown) == 1}
    parts = [layer_in_full(layer, one, before.get(id(layer))) for one in shown for layer in one.layers]
    return Group(*parts) if parts else Text("only in the float model, not in the quantized one")


_DERIVED: dict[type, tuple[str, ...]] = {
    Layer: ("weight_bits", "input_bits", "float_bytes"),
    Inspection: ("integer_macs",),
    Grid: ("range",),
}
"""Properties that the JSON holds beside the fields."""


def record(inspections: Sequence[Inspection], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Everything as plain values for JSON, NaN and infinity as None."""
    return {
        "schema": SCHEMA,
        "models": [_plain(inspection) for inspection in inspections],
        "differences": [
            {
                "name": pair.name,
                "operator": _both(pair)[-1].operator,
                "changes": list(pair.changes),
                "folded": [layer.name for layer in pair.folded],
                "bytes": [pair.bytes_before, pair.after.bytes if pair.after else 0],
            }
            for pair in pairs
        ],
    }


def _plain(part: Any) -> Any:
    if dataclasses.is_dataclass(part):
        names = [field.name for field in dataclasses.fields(part)]
        return {name: _plain(getattr(part, name)) for name in (*names, *_DERIVED.get(type(part), ()))}
    if isinstance(part, list | tuple):
        return [_plain(item) for item in part]
    return None if isinstance(part, float) and not math.isfinite(part) else part


def _is_shown(layer: Layer) -> bool:
    """Whether a layer has a row of its own: for weights, products or quantizers."""
    rounded = any(part.grid for part in layer.inputs) or layer.outputs
    return bool(layer.weights or layer.macs or rounded or layer.fused)


def _both(pair: Pair) -> list[Layer]:
    return [layer for layer in (pair.before, pair.after) if layer is not None]


def _are_short(named: Sequence[Layer] | Sequence[Pair]) -> bool:
    """Whether all names fit in a line."""
    return all(len(one.name) <= NAME for one in named)


def _weight_scale(layer: Layer) -> str:
    if layer.weight is None or layer.weight.grid is None:
        return NOTHING
    scale, zero_point = layer.weight.grid.scale, layer.weight.grid.zero_point
    return f"{_span(scale)}, {_span(zero_point)}" if any(zero_point) else _span(scale)


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"


def _input_grids(layer: Layer) -> str:
    """The grids of the inputs, one in a line."""

    def words(grid: Grid | None) -> str:
        if grid is None:
            return "float"
        return f"{_span(grid.scale)}, {grid.zero_point[0]}" if grid.scale else "at run time"

    return "\n".join(words(part.grid) for part in layer.inputs) or NOTHING


def _bits(layer: Layer) -> str:
    """Bits of weight and inputs, as in 8/8."""
    inputs = "+".join(map(str, sorted(set(layer.input_bits))))
    return f"{known(layer.weight_bits)}/{inputs or NOTHING}"


def _inside(layer: Layer) -> str:
    return "+".join({"batch_norm": "bn"}.get(fused.operator, fused.operator) for fused in layer.fused)


_OPERATOR = Column("Operator", operator)
_WEIGHT = Column[Layer]("Weight", lambda layer: known(layer.weight, lambda weight: shape(weight.shape)))
_OUTPUT = Column[Layer]("Output", lambda layer: shape(layer.output[1:]))
_BITS = Column("Bits\nW/A", _bits, whole=True)
_SCALE = Column("Weight scale", _weight_scale, whole=True)
_INPUT = Column("Input: scale,\nzero point", _input_grids, whole=True)


def _first_columns(layers: Sequence[Layer]) -> list[Column[Layer]]:
    return [Column("Layer", lambda layer: layer.name, whole=_are_short(layers)), _OPERATOR, _WEIGHT, _OUTPUT]


def _float_columns(layers: Sequence[Layer]) -> list[Column[Layer]]:
    inside = [Column("Inside", _inside)] if any(layer.fused for layer in layers) else []
    return [
        *_first_columns(layers),
        Column("Type", lambda layer: layer.weight.dtype if layer.weight else layer.dtype),
        Column("Bytes", lambda layer: f"{layer.bytes:,}", "right"),
        Column("Multiply-\naccumulates", lambda layer: f"{layer.macs:,}" if layer.macs else NOTHING, "right"),
        *inside,
    ]


def _quantized_columns(
    layers: Sequence[Layer], reasons: Sequence[str], before: dict[int, int]
) -> list[Column[Layer]]:
    """``before``: the bytes of the float layer, by the id of the quantized one."""

    def size(layer: Layer) -> str:
        known_before = before.get(id(layer), layer.float_bytes)
        return _kilobytes(known_before, layer.bytes) if layer.bytes else NOTHING

    def note(layer: Layer) -> str:
        why = f"({reasons.index(layer.why) + 1})" if layer.why else ""
        return f"{_inside(layer)} {why}".strip()

    def nearest(layer: Layer) -> str:
        return known(layer.weight.nearest if layer.weight else None, whole_percent)

    has_nearest = any(nearest(layer) != NOTHING for layer in layers)
    return [
        *_first_columns(layers),
        *(_BITS, _SCALE),
        *([Column("Nearest\n%", nearest, "right")] if has_nearest else []),
        _INPUT,
        Column("kB", size, "right", whole=True),
        Column("Inside,\nwhy float", note),
    ]


def _summary(inspection: Inspection, before: Inspection | None) -> Text:
    sizes = _sizes(*([before.bytes] if before else []), inspection.bytes)
    work = f"{inspection.macs:,} multiply-accumulates"
    if inspection.macs and inspection.method not in UNQUANTIZED:
        work += f", {percent(inspection.integer_macs / inspection.macs)}% in integers"
    if any(word in layer.operator for layer in inspection.layers for word in ("lstm", "gru", "rnn")):
        work += " (without those inside recurrent layers)"
    return Text(f"{inspection.parameters:,} parameters in {sizes} · {work}")


def _why_float(layers: Sequence[Layer], reasons: Sequence[str]) -> list[RenderableType]:
    names = [_listed([layer.name for layer in layers if layer.why == reason]) for reason in reasons]
    lines = enumerate(zip(reasons, names, strict=True), 1)
    return [Text(f"({i}) stayed float: {reason}: {listed}", style="yellow") for i, (reason, listed) in lines]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"


def _notes(inspection: Inspection, shown: Sequence[Layer], pairs: Sequence[Pair]) -> list[str]:
    """What the table leaves out, and how to read its columns."""
    notes = [_uncounted(inspection.layers)]
    strangers = [pair.name for pair in pairs if pair.before is None and pair.after and pair.after.weights]
    if strangers:
        notes.append(f"not in the float model, is it the same one? {_listed(strangers)}")
    if inspection.method in UNQUANTIZED:
        return [note for note in notes if note]
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
    return [note for note in notes if note]


def _kilobytes(*sizes: int) -> str:
    return "→".join(figures(size / 1e3) for size in sizes)


def _told(changes: Sequence[str]) -> list[str]:
    """Without what the columns show anyway, and scales that change because the bits do."""
    implied = {"bytes"} | {change.replace("bits", "scale") for change in changes if change.endswith("bits")}
    return [change for change in changes if change not in implied] or list(changes)


def _uncounted(layers: Iterable[Layer]) -> str:
    """The operators without rows, as "7 × relu"."""
    counted = Counter(operator(layer) for layer in layers if not _is_shown(layer))
    listed = ", ".join(f"{number} × {name}" for name, number in counted.most_common())
    return f"not listed, without weights and quantizers: {listed}" if listed else ""


def _sizes(*sizes: int) -> str:
    """One size, or before and after; in bytes if megabytes would read as 0.000."""
    if max(sizes) < 100_000:
        return f"{' → '.join(f'{size:,}' for size in sizes)} bytes"
    return f"{' → '.join(map(megabytes, sizes))} MB"
