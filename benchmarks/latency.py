"""Speed, fidelity and size of all tools' artefacts of each network, timed interleaved in one process.

    python benchmarks/latency.py                               all networks; an hour on two cores
    python benchmarks/latency.py resnet50 --images 32 --seconds 5 --out /tmp/results

Builds each artefact in its own process. Then times all artefacts of a network interleaved in one process: at
batch 1 on one thread, repeated in three processes, and at batch 25 on all cores. Every ratio is that of the
medians, with an interval over rounds. Writes latency.json, latency.md and latency.svg. An interrupted run
continues if the command is repeated.
"""

import json
import math
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import fresh
import networks
import numpy as np
import report
import roofline
import torch
import typer
from build import Setting, build
from ratios import compare, fastest
from rows import ZEROPOINT, Row, rows

from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.measure.latency import Seconds, interleave, paired_ratio, summarize
from zeropoint.targets import machine

EVALUATED = 8  # least number of inputs for fidelity
# At batch 1. The position of a process's memory in the caches is random, and ratios of the same files differ
# by 1% from process to process.
PROCESSES = 3


def measure(
    model: str, images: int, settings: list[Setting], seconds: float, *, only_integers: bool = False
) -> dict[str, Any]:
    """Builds and times everything of one network, or the quantized artefacts alone; the result is JSON."""
    chosen = [row for row in rows(model) if not (only_integers and row.is_float)]
    with tempfile.TemporaryDirectory() as folder:
        costs: dict[str, dict[str, Any]] = {}
        for artefact in dict.fromkeys(row.artefact for row in chosen):
            try:
                costs[artefact] = build(model, artefact, images, settings, folder)
            except fresh.FailedError as error:
                costs[artefact] = {"error": str(error)}
            print(f"{model}: {artefact}: {costs[artefact].get('error') or 'built'}", flush=True)
        timed = []
        for index, setting in enumerate(settings):
            files = {
                row.name: costs[row.artefact]["paths"][index]
                for row in chosen
                if "error" not in costs[row.artefact]
            }
            timed.append(_time(model, files, setting, seconds))
            print(f"{model}: {setting} timed", flush=True)
    lines = [_describe(row, costs[row.artefact]) for row in chosen]
    return {
        "rows": lines,
        "macs": timed[0]["macs"],
        "settings": [
            {**asdict(setting), **_summary(model, run["macs"], run["samples"]), "sqnr_db": run["sqnr_db"]}
            for setting, run in zip(settings, timed, strict=True)
        ],
    }


def _describe(row: Row, cost: dict[str, Any]) -> dict[str, Any]:
    facts = {key: value for key, value in cost.items() if key != "paths"}
    return {"name": row.name, "tool": row.tool, "method": row.method, "engine": row.engine, **facts}


def _time(model: str, files: dict[str, str], setting: Setting, seconds: float) -> dict[str, Any]:
    """Every row's samples (seconds per call) and SQNR (None: identical); MACs."""
    count = PROCESSES if setting.batch == 1 else 1
    runs = [
        fresh.run(_time_once, model, files, setting, seconds / count, 1 if number else EVALUATED)
        for number in range(count)
    ]
    samples = {name: np.concatenate([run["samples"][name] for run in runs]) for name in runs[0]["samples"]}
    return runs[0] | {"samples": samples}


def _time_once(
    model: str, files: dict[str, str], setting: Setting, seconds: float, evaluated: int
) -> dict[str, Any]:
    """The result of ``_time`` from one process; SQNR is measured on ``evaluated`` inputs, or on one batch."""
    if setting.threads == 1 and hasattr(os, "sched_setaffinity"):
        # Before any engine starts its threads, so that all of them share one core.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(setting.threads)
    network = networks.load(model)
    first = range(networks.EVALUATION, networks.EVALUATION + evaluated, setting.batch)
    batches = [networks.batch(model, seed, setting.batch) for seed in first]
    with torch.inference_mode():
        references = [network(batch) for batch in batches]
    inputs, sqnr, runs = batches[0], {}, {}
    for row in rows(model):
        if row.name not in files:
            continue
        call, meter = row.load(Path(files[row.name]), setting.threads), FidelityMeter()
        for batch, reference in zip(batches, references, strict=True):
            meter.add([reference], [call(batch)])
        decibels = meter.result().sqnr_db
        sqnr[row.name] = None if decibels == math.inf else decibels  # JSON has no infinity
        runs[row.name] = lambda call=call: call(inputs)
    runs |= roofline.products(setting.threads)
    # A round of large batches takes minutes and times many images; measuring fidelity was the warm-up.
    rounds, warmup = (10, 3) if setting.batch == 1 else (3, 0)
    samples = interleave(runs, seconds=seconds, min_rounds=rounds, warmup=warmup)
    macs = roofline.macs(network, inputs)
    return {"samples": samples, "sqnr_db": sqnr, "macs": macs}


def _summary(model: str, macs: int, samples: dict[str, Seconds]) -> dict[str, Any]:
    """Latencies, ratios and shares of the roofline, from one setting's samples."""
    lines = rows(model)
    names = [row.name for row in lines if row.name in samples]
    eager = next(row.name for row in lines if row.engine == "torch eager")
    peak = fastest(samples, set(samples) - set(names))
    assert peak is not None
    scaled = samples[peak] * (macs / roofline.MACS)  # the time of the network at the peak
    pairs = {title: compare(samples, *groups) for title, groups in _groups(lines).items()}
    return {
        "rounds": len(samples[peak]),
        "latency_ms": {name: asdict(summarize(samples[name])) for name in names},
        "speedup_over_eager": {name: asdict(paired_ratio(samples[eager], samples[name])) for name in names}
        if eager in samples
        else {},
        "ratios": {title: asdict(pair) if pair else None for title, pair in pairs.items()},
        "int8_peak": {"by": peak, "macs_per_second": roofline.MACS / float(np.median(samples[peak]))},
        "share_of_int8_peak": {name: asdict(paired_ratio(scaled, samples[name])) for name in names},
    }


def _groups(lines: list[Row]) -> dict[str, tuple[list[str], list[str]]]:
    """The pairs of groups to compare: the fastest of the first rows over the fastest of the second."""
    ours = [row for row in lines if row.tool == ZEROPOINT]
    groups = {"best": ([row.name for row in ours], [row.name for row in lines if row.tool != ZEROPOINT])}
    for engine, tool in report.RIVALS.items():
        quantized = [row.name for row in ours if row.engine == engine and not row.is_float]
        groups[engine] = (quantized, [row.name for row in lines if row.tool == tool])
    return groups


def main(
    names: Annotated[list[str] | None, typer.Argument(help="networks; default: all")] = None,
    images: Annotated[int, typer.Option(help="calibration images")] = 64,
    threads: Annotated[int | None, typer.Option(help="only this number of threads")] = None,
    batch: Annotated[int | None, typer.Option(help="only this batch size")] = None,
    seconds: Annotated[float, typer.Option(help="least time for the timings of one network")] = 20.0,
    only_integers: Annotated[bool, typer.Option(help="leave out rows of float32 and bf16")] = False,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Build, time, compare."""
    networks.check(names or ())
    both = [Setting(1, 1), Setting(machine.cores(), 25)]
    settings = [Setting(threads or 1, batch or 1)] if threads or batch else both
    about = {
        "machine": machine.describe() | {"peers": report.versions()},
        "images": images,
        "seconds": seconds,
        "settings": [asdict(setting) for setting in settings],
        "only_integers": only_integers,
    }
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "latency.unfinished.json"
    record = json.loads(unfinished.read_text()) if unfinished.exists() else {}
    if {key: record.get(key) for key in about} != about:
        record = {**about, "models": {}}
    for name in names or networks.NAMES:
        if name not in record["models"]:
            record["models"][name] = measure(name, images, settings, seconds, only_integers=only_integers)
            unfinished.write_text(json.dumps(record))
    report.write(out, "latency", record, report.latency(record))
    report.chart(record, (report.DOCS if out == report.RESULTS else out) / "latency.svg")
    unfinished.unlink()
    print((out / "latency.md").read_text())


if __name__ == "__main__":
    typer.run(main)
