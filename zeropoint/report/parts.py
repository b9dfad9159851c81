"""What is printed of a model with parts on an engine."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from zeropoint.parts.compare import PartsRow
from zeropoint.parts.result import Output, Part, Parts
from zeropoint.report.columns import Column, table
from zeropoint.report.figures import (
    NOTHING,
    count,
    figures,
    known,
    metric_figures,
    metric_header,
    percent,
    ratio,
)
from zeropoint.tasks import Measure

SCHEMA = 1
SHOWN = 12  # refusals


def terminal(parts: Parts) -> RenderableType:
    """The parts, the modules that are none, and how close the whole is, as a rich console prints it."""
    columns = [
        Column[Part]("Part", lambda part: part.name or "the whole model"),
        Column[Part]("Calls", lambda part: str(part.calls), "right"),
        Column[Part]("MACs\n%", lambda part: _share(part.share), "right"),
        Column[Part]("SQNR\ndB", lambda part: _decibels(part.sqnr_db), "right"),
    ]
    refused = [f"not a part: {one.name or 'the whole model'}: {one.reason}" for one in parts.refused]
    more = [f"and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
    notes = [
        *refused[:SHOWN],
        *more,
        *(f"output {one.name or 'of the model'}: {_closeness(one)}" for one in parts.outputs),
    ]
    share = _share(parts.share)
    title = f"{count(len(parts.parts), 'part')} on {parts.engine}: {share}% of the multiply-accumulates"
    return Group(
        table(columns, parts.parts, gap=2),
        Text(),
        Text(title, style="bold"),
        *(Text(note, style="dim") for note in notes),
    )


def compared(rows: Sequence[PartsRow], metrics: Sequence[Measure] = ()) -> RenderableType:
    """A row for the float model and for each method and engine, with the ``metrics`` that they have."""
    columns = [
        Column[PartsRow]("Method", lambda row: row.method),
        Column[PartsRow]("Engine", lambda row: row.engine),
        Column[PartsRow]("Parts", lambda row: str(row.parts) if row.parts else NOTHING, "right"),
        Column[PartsRow]("MACs\n%", lambda row: _share(row.share) if row.parts else NOTHING, "right"),
        Column[PartsRow]("SQNR\ndB", lambda row: known(row.sqnr_db, _decibels), "right"),
        *map(_of_metric, metrics),
        *(_OF_DECODERS if any(row.perplexity is not None for row in rows) else ()),
        Column[PartsRow]("Latency ms\np50 (p90)", _latency, "right"),
        Column[PartsRow]("×\nwhole", lambda row: known(row.speedup, ratio), "right"),
    ]
    failed = [
        Text(f"{row.method} on {row.engine} failed: {row.error}", style="dim") for row in rows if row.error
    ]
    return Group(table(columns, rows, gap=2), *failed)


def _of_metric(metric: Measure) -> Column[PartsRow]:
    text = percent if metric.unit == "%" else metric_figures
    return Column(metric_header(metric), lambda row: known(row.values.get(metric.name), text), "right")


_OF_DECODERS = (
    Column[PartsRow]("Perplexity", lambda row: known(row.perplexity, figures), "right"),
    Column[PartsRow]("Tokens\n/ s", lambda row: known(row.tokens_per_second, figures), "right"),
)


def record(rows: Sequence[PartsRow]) -> dict[str, Any]:
    """The rows as plain values for JSON; an SQNR that is infinite is None."""
    plain = [dataclasses.asdict(row) for row in rows]
    for row in plain:
        row["sqnr_db"] = row["sqnr_db"] if math.isfinite(row["sqnr_db"] or 0) else None
    return {"schema": SCHEMA, "rows": plain}


def _share(share: float) -> str:
    return f"{100 * share:.1f}"


def _latency(row: PartsRow) -> str:
    latency = row.latency_ms
    return NOTHING if latency is None else f"{figures(latency.p50)} ({figures(latency.p90)})"


def _closeness(output: Output) -> str:
    if output.sqnr_db is not None:
        return f"SQNR {_decibels(output.sqnr_db)} dB to float32"
    if output.equal is not None:
        return f"{100 * output.equal:.2f}% of its values are float32's"
    return "of another shape than float32's"


def _decibels(value: float) -> str:
    return "∞" if value == math.inf else figures(value)
