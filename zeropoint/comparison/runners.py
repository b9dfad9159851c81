"""Runners: the artefacts of a comparison, and the time that they take, interleaved in one pass."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zeropoint.comparison.start import ARTEFACTS, Run
from zeropoint.engines import Runner, load_artefact, lower
from zeropoint.engines import find as engine
from zeropoint.errors import first_line
from zeropoint.graph.program import Program
from zeropoint.measure.latency import interleave, summarize
from zeropoint.measure.results import EAGER, Results, Row
from zeropoint.measure.size import on_disk
from zeropoint.methods import find
from zeropoint.targets import machine

LATENCY_SECONDS = 1.0  # spent timing, for each artefact


def runner(run: Run, program: Program, name: str, threads: int) -> Runner:
    """The Program on an engine, its artefact in the run folder."""
    module = engine(name)
    bits = f"-W{program.weight_bits}A{program.activation_bits}" if find(program.method).quantizes else ""
    path = run.folder / ARTEFACTS / f"{program.method}{bits}{module.artefact_name(program)}"
    if not path.exists():
        lower(program, name, path, run.threads)  # what is timed is to be fast
    return load_artefact(name, path, threads, program)


@functools.lru_cache(maxsize=8)
def reference(run: Run, name: str, threads: int) -> Runner:
    """Float32 on an engine; on torch that is eager PyTorch."""
    return runner(run, run.program, name, threads)


def timed(run: Run, results: Results) -> Results:
    """The results with the latencies of all rows, unless all have one.

    All artefacts are timed interleaved, so that rows can be compared with each other; where they may not fit
    in memory together, each row is timed with float32 alone.
    """
    rows = [row for row in results.rows if row.error is None and row.artefact is not None]
    if all(row.latency_ms is not None for row in rows):
        return results
    size = sum(on_disk(run.folder / str(row.artefact)) for row in rows)
    together = 4 * size <= (machine.describe().get("memory_bytes") or 0)
    for part in [rows] if together else [[row] for row in rows]:
        names = part[0].name if len(part) == 1 else f"{len(part)} rows"
        run.say(f"timing {names}, interleaved with eager float32")
        measured = {row.name: row for row in _together(run, part)}
        kept = tuple(measured.get(row.name, row) for row in results.rows)
        results = dataclasses.replace(results, rows=kept)
    return results


def _together(run: Run, rows: Sequence[Row]) -> list[Row]:
    """The rows with their latencies, and speeds that are ratios of the same medians."""
    engines = dict.fromkeys([EAGER, *(row.engine for row in rows)])
    float32 = {name: reference(run, name, run.threads) for name in engines}
    artefacts = {one.artefact: one.engine for one in float32.values()}
    artefacts |= {run.folder / str(row.artefact): row.engine for row in rows}
    eager = float32[EAGER]  # takes longer to load than all others
    calls: dict[str, Callable[[], object]] = {}
    failed: dict[Path, str] = {}
    for path, name in artefacts.items():
        try:
            calls[str(path)] = _call(
                run, eager if path == eager.artefact else load_artefact(name, path, run.threads)
            )
        except Exception as error:
            failed[path] = first_line(error)[:300]
    samples = interleave(calls, seconds=LATENCY_SECONDS * len(calls))
    medians = {key: float(np.median(times)) for key, times in samples.items()}
    found = []
    for row in rows:
        path = run.folder / str(row.artefact)
        if path in failed:
            found.append(dataclasses.replace(row, error=failed[path]))
            continue
        own = medians[str(path)]
        found.append(
            dataclasses.replace(
                row,
                latency_ms=summarize(samples[str(path)]),
                speedup_eager=medians[str(float32[EAGER].artefact)] / own,
                speedup_engine=medians[str(float32[row.engine].artefact)] / own,
            )
        )
    return found


def _call(run: Run, loaded: Runner) -> Callable[[], object]:
    """One call of an artefact on the example inputs, tried once."""
    inputs = run.program.example_inputs
    loaded.flat(*inputs)
    return lambda: loaded.flat(*inputs)
