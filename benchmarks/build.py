"""Builds one artefact in a fresh process, and measures seconds, peak memory and bytes on disk."""

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fresh
import networks
from rows import artefacts, rows

from zeropoint.engines.artefact import load
from zeropoint.graph.program import Program, parameter_bytes
from zeropoint.measure.integers import integers
from zeropoint.measure.size import on_disk


@dataclass(frozen=True)
class Setting:
    """The threads and the batch size that an artefact runs with."""

    threads: int
    batch: int


def build(model: str, artefact: str, images: int, settings: list[Setting], folder: str) -> dict[str, Any]:
    """The cost of building, and under "paths" the artefact's file for each setting.

    The clock starts when the tool's packages are imported and the calibration images are in memory. "seconds"
    is the time from the float model in memory to the artefact of the first setting on disk. Raises
    fresh.FailedError if the tool fails.
    """
    return fresh.run(_build, model, artefact, images, settings, folder)


def _build(model: str, artefact: str, images: int, settings: list[Setting], folder: str) -> dict[str, Any]:
    recipe = artefacts(model)[artefact]
    network, example = networks.load(model), networks.batch(model, 0, 2)
    calibration = list(networks.Calibration(model, images))
    for package in recipe.packages:
        importlib.import_module(package)
    before = fresh.peak_bytes()
    started = time.perf_counter()
    quantized = recipe.quantize(network, example, calibration)
    in_memory = time.perf_counter() - started
    seconds, paths = 0.0, []
    for setting in settings:
        inputs = networks.batch(model, networks.EVALUATION, setting.batch)
        stem = f"{folder}/{artefact}-{setting.threads}x{setting.batch}"
        paths.append(recipe.save(quantized, inputs, setting.threads, stem))
        seconds = seconds or time.perf_counter() - started
    cost = {
        "seconds": seconds,
        "peak_bytes": fresh.peak_bytes(),
        "peak_bytes_before": before,
        "artefact_bytes": on_disk(paths[0]),
        "paths": [str(path) for path in paths],
    }
    if isinstance(quantized, Program):
        cost["capture_seconds"] = in_memory - quantized.quantize_seconds
        cost["parameter_bytes"] = parameter_bytes(quantized)
        cost["int8_share"] = integers(quantized, load(paths[0], threads=1)).share
    _try_out(model, artefact, settings, paths)
    return cost


def _try_out(model: str, artefact: str, settings: list[Setting], paths: list[Path]) -> None:
    """Runs every row of the artefact, so that a crash happens here and not during the timing."""
    for row in rows(model):
        if row.artefact == artefact:
            for setting, path in zip(settings, paths, strict=True):
                row.load(path, setting.threads)(networks.batch(model, networks.EVALUATION, setting.batch))
