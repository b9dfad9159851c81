"""What a benchmark prints, and what it leaves as JSON."""

import datetime
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from typing import Any

import msgspec
from rich.console import RenderableType

from zeropoint.files import atomic_write
from zeropoint.measure.benchmark import Benchmark, BenchmarkPair
from zeropoint.measure.coldstart import ColdStart
from zeropoint.measure.evaluate import Evaluation
from zeropoint.report.columns import Column, table
from zeropoint.report.figures import NOTHING, count, figures, ratio, samples, value_text
from zeropoint.targets import machine
from zeropoint.tuning.choose import Choice

SCHEMA = 1
"""Version of the JSON; it goes up whenever a reader of the older one would misread the newer."""


def terminal(models: Sequence[str], results: Sequence[Benchmark]) -> RenderableType:
    """What a rich console prints: a row per measurement, a column per model."""
    first = results[0]
    columns: list[Column[_Line]] = [
        Column(f"batch {first.batch_size}, {count(first.threads, 'thread')}", itemgetter(0)),
        *(
            Column(f"{model} on {result.engine}", partial(_cell, result), "right")
            for model, result in zip(models, results, strict=True)
        ),
    ]
    return table(columns, _LINES, gap=2)


def compared(models: Sequence[str], pair: BenchmarkPair) -> str:
    """The speed of the second model relative to the first, with its confidence interval, in a line."""
    model, other = (
        f"{name} on {result.engine}" for name, result in zip(models, (pair.model, pair.other), strict=True)
    )
    speedup = pair.speedup
    interval = f"95% confidence interval {_factor(speedup.low)}–{_factor(speedup.high)}"
    line = f"{other} is {_factor(speedup.median)}× ({interval}) as fast as {model}"
    return line if pair.differs else f"{line}: no difference was found"


def chosen(choice: Choice) -> str:
    """The fastest engine and the latency of each, fastest first, in a line."""
    timed = [f"{name} {figures(latency.p50)} ms" for name, latency in choice.latency_ms.items()]
    return f"fastest engine: {choice.engine} ({', '.join(timed)})"


def measured(evaluation: Evaluation, data: str, where: str) -> str:
    """What ``evaluate`` measured on the data of that name, in a line."""
    accuracy = evaluation.accuracy
    seen = samples(accuracy.images, data, evaluation.task)
    if not evaluation.measures:
        return f"{seen}, no targets: no metric is known; compare measures fidelity"
    shown = []
    for measure in evaluation.measures:
        value = evaluation.values[measure.name]
        shown.append(f"{measure.name} {NOTHING if value is None else value_text(value, measure)}")
    if accuracy.loss is not None:
        shown.append(f"loss {accuracy.loss:.4f}")
    return f"{', '.join(shown)} on {seen} ({where})"


def evaluated(
    model: str, data: str, engine: str, evaluation: Evaluation, choice: Choice | None
) -> dict[str, Any]:
    """What ``evaluate`` measured as plain values for JSON; NaN and infinity are None."""
    accuracy = evaluation.accuracy
    return {
        "schema": SCHEMA,
        "model": model,
        "data": data,
        "engine": engine,
        "images": accuracy.images,
        "top1": _finite(accuracy.top1),
        "loss": _finite(accuracy.loss),
        "task": evaluation.task,
        "metrics": [
            {**asdict(measure), "value": _finite(evaluation.values[measure.name])}
            for measure in evaluation.measures
        ],
        "choice": asdict(choice) if choice else None,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def write_json(
    path: str | os.PathLike[str],
    models: Sequence[str],
    results: Sequence[Benchmark],
    choices: Sequence[Choice | None],
    pair: BenchmarkPair | None,
    *,
    seconds: float,
    command: str,
) -> None:
    """Writes everything measured, with the machine; raises InputError if it cannot be written."""
    written = record(models, results, choices, pair, seconds=seconds, command=command)
    with atomic_write(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(written)) + b"\n")


def record(
    models: Sequence[str],
    results: Sequence[Benchmark],
    choices: Sequence[Choice | None],
    pair: BenchmarkPair | None,
    *,
    seconds: float,
    command: str,
) -> dict[str, Any]:
    """Everything measured, with the machine, as plain values for JSON."""
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine.describe(),
        "seconds": seconds,
        "models": [
            {"model": model, **_plain(result), "choice": asdict(choice) if choice else None}
            for model, result, choice in zip(models, results, choices, strict=True)
        ],
        "speedup": asdict(pair.speedup) | {"differs": pair.differs} if pair else None,
    }


def _plain(result: Benchmark) -> dict[str, Any]:
    plain = asdict(result)
    plain["cold_start"]["seconds"] = result.cold_start.seconds
    return plain


_Line = tuple[str, Callable[[Benchmark], str]]


def _cell(result: Benchmark, line: _Line) -> str:
    return line[1](result)


def _milliseconds(seconds: float) -> str:
    return f"{figures(1000 * seconds)} ms"


def _memory(size: int) -> str:
    return f"{figures(size / 1e6, decimals=1)} MB"


def _warmup(cold: ColdStart) -> str:
    return f"{_milliseconds(cold.warmup_seconds)} in {count(cold.warmup_calls, 'call')}"


_LINES: tuple[_Line, ...] = (
    ("Latency p50", lambda result: f"{figures(result.latency_ms.p50)} ms"),
    ("Latency p90", lambda result: f"{figures(result.latency_ms.p90)} ms"),
    ("Latency p99", lambda result: f"{figures(result.latency_ms.p99)} ms"),
    ("Throughput", lambda result: f"{figures(result.items_per_second)} items/s"),
    ("Cold start", lambda result: _milliseconds(result.cold_start.seconds)),
    ("  load", lambda result: _milliseconds(result.cold_start.load_seconds)),
    (
        "  compile for the shape, first inference",
        lambda result: _milliseconds(result.cold_start.first_call_seconds),
    ),
    ("  imports, not counted", lambda result: _milliseconds(result.cold_start.import_seconds)),
    ("Warm-up", lambda result: _warmup(result.cold_start)),
    ("Peak memory", lambda result: _memory(result.cold_start.peak_memory_bytes)),
    ("  of it the model's", lambda result: _memory(result.cold_start.model_memory_bytes)),
)


def _factor(value: float) -> str:
    """A ratio near 1 with the decimals in which it differs from 1."""
    return f"{value:.3f}" if 0.9 < value < 1.1 else ratio(value)
