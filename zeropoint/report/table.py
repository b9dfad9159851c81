"""The comparison table, for terminal, Markdown and HTML: one set of columns, cells and notes for all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Group, RenderableType
from rich.text import Text

from zeropoint.measure.kept import standings
from zeropoint.measure.results import Parity, Results, Row
from zeropoint.report.columns import Column, table
from zeropoint.report.figures import (
    NOTHING,
    count,
    decibels,
    figures,
    known,
    megabytes,
    metric_figures,
    metric_header,
    percent,
    ratio,
    samples,
    value_text,
    whole_percent,
)
from zeropoint.report.verdict import verdict
from zeropoint.tasks.metric import Measure

WITH_LOSS = ("classification", "text-classification")
BUSY = 1.5  # the 90th percentile over the median, above which the machine is called busy

MARK = "*"
FAILED = "✗"
DIFFERS = "!"
WORST = 3  # outputs, of many


@dataclass(frozen=True)
class _Column:
    """A measured column: header, the value that ranks the rows, how it reads, and which value is best."""

    header: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    best: Callable[[list[float]], float]
    suffix: Callable[[Row], str] = lambda row: ""
    quantized_only: bool = False  # where float32 is best by definition, the best quantized row is marked


def terminal(results: Results) -> RenderableType:
    """What a rich console prints: title, table, verdict and notes. The table is at most 120 columns wide."""
    headers, rows = cells(results)
    columns: list[Column[list[str]]] = [
        Column(header, partial(_styled, i), "left" if i < 2 else "right", whole=True)
        for i, header in enumerate(headers)
    ]
    return Group(
        Text(title(results), style="bold"),
        table(columns, rows, gap=0),
        Text(),
        Text(verdict(results), style="bold"),
        Text(),
        *(Text(note, style="dim") for note in notes(results)),
    )


def _styled(place: int, line: Sequence[str]) -> Text:
    return Text(line[place], style="bold green" if line[place].startswith(MARK) else "")


def markdown(results: Results) -> str:
    """The same as a Markdown document, with the command that made it."""
    headers, rows = cells(results)
    lines = [
        [header.replace("\n", " ") for header in headers],
        [":---"] * 2 + ["---:"] * (len(headers) - 2),
        *rows,
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    footer = "\n".join(notes(results))  # in a code block: errors and paths may hold what Markdown would read
    return (
        f"# {title(results)}\n\n{table}\n\n**{verdict(results)}**\n\n"
        f"```text\n{footer}\n```\n\n```console\n$ {results.command}\n```\n"
    )


def cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """Headers, some of two lines, and row by row the cells."""
    rows = results.rows
    columns = [*_quality(results), *_COLUMNS]
    headers = ["Method", "Engine", "Bits\nW/A", *(column.header for column in columns)]
    engines = [f"{row.engine}{'' if row.parity is None or row.parity.ok else DIFFERS}" for row in rows]
    names = [[row.method for row in rows], engines, [_bits(row) for row in rows]]
    measured = [_column_cells(column, rows) for column in columns]
    return headers, [list(line) for line in zip(*names, *measured, strict=True)]


def _column_cells(column: _Column, rows: Sequence[Row]) -> list[str]:
    """One column's cells; all that read the same as the best one carry the mark."""
    values = [column.value(row) for row in rows]
    counted = [row.error is None and (row.quantized or not column.quantized_only) for row in rows]
    ranked = [value for value, counts in zip(values, counted, strict=True) if counts and value is not None]
    best = column.text(column.best(ranked)) if ranked else None
    cells = []
    for row, value, counts in zip(rows, values, counted, strict=True):
        if value is None:
            cells.append(FAILED if row.error else NOTHING)
        else:
            text = column.text(value)
            mark = MARK if counts and text == best else ""
            cells.append(f"{mark}{text}{column.suffix(row)}")
    return cells


def title(results: Results) -> str:
    """What was compared and how, in a line."""
    seen = samples(results.images, results.data, results.task)
    parts = [results.model, results.data, seen, f"batch {results.batch_size}"]
    return " · ".join([*parts, count(results.threads, "thread")])


def notes(results: Results) -> list[str]:
    """One line each: how to read the table, failures, parity, the machine, engines not installed."""
    notes = [
        f"{MARK} best of its column (agreement, SQNR and time to quantize: of the quantized rows)",
        "× eager, × engine: speed-up over float32 in eager PyTorch, on the same engine; 1 MB is 10^6 bytes",
        "int8: the share of multiply-accumulates that the engine does in int8, by its own account",
    ]
    notes += _metrics(results)
    notes += [f"{FAILED} {row.name} failed: {row.error}" for row in results.rows if row.error is not None]
    notes += [f"not run: {name}, since {reason}" for name, reason in results.skipped.items()]
    notes += _parity(results)
    notes += _outputs(results)
    notes += [_fallback(row) for row in results.rows if row.fallbacks]
    notes += _wide(results)
    notes += results.remarks
    notes.append(_machine(results))
    notes += [f"{engine} is not installed: {command}" for engine, command in results.missing.items()]
    return notes


def _metrics(results: Results) -> list[str]:
    """What the metrics mean, and whether too few samples or a busy machine make rows hard to tell apart."""
    lower = [metric.name for metric in results.metrics if not metric.higher_is_better]
    notes = [f"lower is better: {', '.join(lower)}"] if lower else []
    if not results.metrics:
        notes.append("the data has no targets, or no task that reads them: rows are compared with float32")
    limits = [one.limit for one in standings(results) if one.measure and one.measure.unit == "%"]
    if limits and 0 < results.images * max(limits) < 2:
        notes.append(
            f"{count(results.images, 'sample')} are few: one of them is {100 / results.images:.1f} points,"
            f" and a row may lose {100 * max(limits):g}"
        )
    busy = [
        row.name for row in results.rows if row.latency_ms and row.latency_ms.p90 > BUSY * row.latency_ms.p50
    ]
    if busy:
        notes.append(
            f"the machine was busy: the 90th percentile is over {BUSY:g} times the median for"
            f" {', '.join(busy)}"
        )
    return notes


def _outputs(results: Results) -> list[str]:
    """The SQNR of the worst outputs of each quantized row, if there are several outputs."""
    notes = []
    for row in results.rows:
        known = {name: value for name, value in row.outputs_db.items() if value is not None}
        if row.quantized and len(known) > 1:
            worst = sorted(known, key=known.__getitem__)[:WORST]
            told = ", ".join(f"{name} {decibels(known[name])}" for name in worst)
            notes.append(f"SQNR is that of the worst output: of {row.name}, {told}")
    return notes


def _parity(results: Results) -> list[str]:
    compared = [(row, row.parity) for row in results.rows if row.parity is not None]
    short = [(row, parity) for row, parity in compared if not parity.ok]
    if compared and not short:
        return [
            f"parity ok: {count(len(compared), 'row')} as close to float32 on the engine as in simulation"
        ]
    return [_shortfall(row, parity, results.fidelity) for row, parity in short]


def _shortfall(row: Row, parity: Parity, fidelity: Measure | None) -> str:
    engine, simulation = decibels(parity.sqnr_db_engine), decibels(parity.sqnr_db_simulation)
    line = f"{DIFFERS} parity failed for {row.name}: SQNR {engine}, simulated {simulation}"
    if parity.agreement is not None and fidelity is not None:
        what = "same class for" if fidelity.name == "agreement" else fidelity.name
        line += f", {what} {value_text(parity.agreement, fidelity)}"
    if parity.operator is not None:
        line += f"; they first differ at {parity.operator}"
    if parity.close:
        return line
    return f"{line}. Do not ship this row{f': {parity.cause}' if parity.cause else ''}"


def _fallback(row: Row) -> str:
    first, others = row.fallbacks[0], len(row.fallbacks) - 1
    more = f" and {others} more (results.json names all)" if others else ""
    return (
        f"{row.name} runs {first}{more} in float although quantized: keep that float by --skip, or take"
        " another engine"
    )


def _wide(results: Results) -> list[str]:
    """A line if activations have more than eight bits, for which no engine has kernels."""
    bits = {row.activation_bits or 0 for row in results.rows if row.quantized}
    bits |= {16} if results.options.get("activation16") else set()
    wide = ", ".join(str(number) for number in sorted(bits) if 8 < number <= 16)
    line = f"activations of {wide} bits are rounded in simulation only: engines compute on them in float"
    return [f"{line}, which the share of int8 leaves out"] if wide else []


def _machine(results: Results) -> str:
    machine = results.machine
    parts = [
        str(machine.get("processor") or "unknown processor"),
        count(machine.get("cores") or 0, "core"),
        " ".join(machine.get("instruction_sets") or ()),
        f"{count(results.threads, 'thread')} used",
        ", ".join(f"{name} {version}" for name, version in (machine.get("versions") or {}).items()),
    ]
    return f"measured on {'; '.join(part for part in parts if part)}"


def _bits(row: Row) -> str:
    return row.bits if row.mixture else f"{row.weight_bits}/{known(row.activation_bits)}"


def _quality(results: Results) -> list[_Column]:
    """The columns of the metrics, of a classifier's loss, and of what agrees with float32."""
    columns = [_metric(metric) for metric in results.metrics]
    if any(row.loss is not None for row in results.rows) and results.task in WITH_LOSS:
        columns.append(_Column("Loss", lambda row: row.loss, lambda loss: f"{loss:.4f}", min))
    fidelity = results.fidelity
    if fidelity is not None:
        in_percent = fidelity.unit == "%"
        header = "Agree\n%" if in_percent else f"{fidelity.name}\n{fidelity.unit}".replace(" to ", "\nto ", 1)
        columns.append(
            _Column(
                header,
                lambda row: row.agreement,
                (lambda value: f"{100 * value:.1f}") if in_percent else figures,
                max,
                quantized_only=True,
            )
        )
    return columns


def _metric(metric: Measure) -> _Column:
    in_percent = metric.unit == "%"
    return _Column(
        metric_header(metric),
        lambda row: row.values.get(metric.name),
        percent if in_percent else metric_figures,
        max if metric.higher_is_better else min,
    )


_COLUMNS = (
    _Column("SQNR\ndB", lambda row: row.sqnr_db, figures, max, quantized_only=True),
    _Column(
        "Latency ms\np50 (p90)",
        lambda row: row.latency_ms.p50 if row.latency_ms else None,
        figures,
        min,
        suffix=lambda row: f" ({figures(row.latency_ms.p90)})" if row.latency_ms else "",
    ),
    _Column("int8\n%", lambda row: row.int8_share, whole_percent, max, quantized_only=True),
    _Column("×\neager", lambda row: row.speedup_eager, ratio, max),
    _Column("×\nengine", lambda row: row.speedup_engine, ratio, max),
    _Column("Size\nMB", lambda row: row.size_bytes, megabytes, min),
    _Column("Shrink\n×", lambda row: row.shrink, ratio, max),
    _Column("Params\nMB", lambda row: row.parameter_bytes, megabytes, min),
    _Column("Quant.\ns", lambda row: row.quantize_seconds, figures, min, quantized_only=True),
)
