"""What a benchmark prints, and what it leaves as JSON."""

import datetime
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from zeropoint.files import atomic_write
from zeropoint.measure.accuracy import Accuracy
from zeropoint.measure.benchmark import Benchmark, BenchmarkPair
from zeropoint.report.figures import figures, ratio
from zeropoint.targets import machine
from zeropoint.tune.choose import Choice

SCHEMA = 1
"""Version of the JSON; it goes up whenever a reader of the older one would misread the newer."""


def terminal(models: Sequence[str], results: Sequence[Benchmark]) -> RenderableType:
    """What a rich console prints: a row per measurement, a column per model."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    first = results[0]
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    table.add_column(f"batch {first.batch_size}, {threads}")
    for model, result in zip(models, results, strict=True):
        table.add_column(Text(f"{model} on {result.engine}"), justify="right", overflow="fold")
    for rows in zip(*map(_rows, results), strict=True):
        table.add_row(rows[0][0], *(cell for _, cell in rows))
    return table


def compared(models: Sequence[str], pair: BenchmarkPair) -> str:
    """How fast the second model is beside the first, with the confidence interval, in a line."""
    model, other = (
        f"{name} on {result.engine}" for name, result in zip(models, (pair.model, pair.other), strict=True)
    )
    speedup = pair.speedup
    interval = f"95% confidence interval {_factor(speedup.low)}–{_factor(speedup.high)}"
    line = f"{other} is {_factor(speedup.median)}× ({interval}) as fast as {model}"
    return line if pair.differs else f"{line}: no difference was found"


def chosen(choice: Choice) -> str:
    """What each engine took, fastest first, in a line."""
    timed = [f"{name} {figures(latency.p50)} ms" for name, latency in choice.latency_ms.items()]
    return f"fastest engine: {choice.engine} ({', '.join(timed)})"


def evaluated(
    model: str, data: str, engine: str, accuracy: Accuracy, choice: Choice | None
) -> dict[str, Any]:
    """What ``evaluate`` measured as plain values for JSON; a loss of NaN or infinity is None."""
    loss = accuracy.loss if accuracy.loss is not None and math.isfinite(accuracy.loss) else None
    return {
        "schema": SCHEMA,
        "model": model,
        "data": data,
        "engine": engine,
        "images": accuracy.images,
        "top1": accuracy.top1,
        "loss": loss,
        "choice": asdict(choice) if choice else None,
    }


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
    """Writes everything measured, with the machine; raises InputError where it cannot be written."""
    written = record(models, results, choices, pair, seconds=seconds, command=command)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(written, indent=2, allow_nan=False) + "\n", encoding="utf-8")


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
            {"model": model} | _record(result) | {"choice": asdict(choice) if choice else None}
            for model, result, choice in zip(models, results, choices, strict=True)
        ],
        "speedup": asdict(pair.speedup) | {"differs": pair.differs} if pair else None,
    }


def _record(result: Benchmark) -> dict[str, Any]:
    record = asdict(result)
    record["cold_start"]["seconds"] = result.cold_start.seconds
    return record


def _rows(result: Benchmark) -> list[tuple[str, str]]:
    latency, cold = result.latency_ms, result.cold_start
    calls = "1 call" if cold.warmup_calls == 1 else f"{cold.warmup_calls} calls"
    return [
        ("Latency p50", f"{figures(latency.p50)} ms"),
        ("Latency p90", f"{figures(latency.p90)} ms"),
        ("Latency p99", f"{figures(latency.p99)} ms"),
        ("Throughput", f"{figures(result.items_per_second)} items/s"),
        ("Cold start", _milliseconds(cold.seconds)),
        ("  load", _milliseconds(cold.load_seconds)),
        ("  compile for the shape, first inference", _milliseconds(cold.first_call_seconds)),
        ("  imports, not counted", _milliseconds(cold.import_seconds)),
        ("Warm-up", f"{_milliseconds(cold.warmup_seconds)} in {calls}"),
        ("Peak memory", _megabytes(cold.peak_memory_bytes)),
        ("  of it the model's", _megabytes(cold.model_memory_bytes)),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{figures(1000 * seconds)} ms"


def _megabytes(size: int) -> str:
    return f"{figures(size / 1e6, decimals=1)} MB"


def _factor(value: float) -> str:
    """A ratio near 1 with the decimals in which it differs from 1."""
    return f"{value:.3f}" if 0.9 < value < 1.1 else ratio(value)
