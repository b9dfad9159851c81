"""Cold start: what a fresh process takes, in time and memory, to run an artefact for the first time.

Run as a module, this file is that process: it takes one argument of JSON and prints a line of JSON.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zeropoint.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from zeropoint.engines import Runner

MIN_CALLS, MIN_SECONDS = 20, 0.5  # calls of the fresh process: at least this number, for at least this time
STEADY = 1.1
"""A call is at steady state if it takes at most STEADY times the median of the later half of calls."""


@dataclass(frozen=True)
class ColdStart:
    """A first run in a fresh process; the artefact's file may still be in the system's cache.

    ``import_seconds``: importing torch, the engine and zeropoint. ``load_seconds``: reading the artefact.
    ``first_call_seconds``: the first inference, with what the engine compiles for the inputs' shape.
    ``warmup_calls``, ``warmup_seconds``: the calls before the first one at steady state, and what they take.
    ``memory_before_bytes``: resident before the artefact is loaded. ``peak_memory_bytes``: the most ever
    resident. ``model_memory_bytes``: the most that was resident from then on, above what was before.
    """

    import_seconds: float
    load_seconds: float
    first_call_seconds: float
    warmup_calls: int
    warmup_seconds: float
    memory_before_bytes: int
    peak_memory_bytes: int
    model_memory_bytes: int

    @property
    def seconds(self) -> float:
        """From the artefact's path to the first outputs: load and first call, imports apart."""
        return self.load_seconds + self.first_call_seconds


def cold_start(runner: "Runner", inputs: Sequence["Tensor"]) -> ColdStart:
    """Loads and runs the Runner's artefact in a fresh process, on stand-ins for ``inputs``.

    Raises InputError if that process fails, with the last line of its output.
    """
    request = {
        "artefact": str(runner.artefact.resolve()),
        "engine": runner.engine,
        "threads": runner.threads,
        "inputs": [[list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for tensor in inputs],
    }
    # -P: no file of the working folder is to be taken for a module.
    command = [sys.executable, "-P", "-m", __name__, json.dumps(request)]
    # By itself a compiled package does not look at its inputs, and reads past the end of small ones.
    environment = os.environ | {"AOTI_RUNTIME_CHECK_INPUTS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        *_, line = ["no message", *done.stderr.strip().splitlines()]
        reason = f"ended by signal {-done.returncode}" if done.returncode < 0 else line
        raise InputError(f"{runner.engine} fails on {runner.artefact} in a fresh process: {reason}")
    return ColdStart(**json.loads(done.stdout.splitlines()[-1]))


def _measure(request: dict[str, Any]) -> ColdStart:
    """What ``request`` asks for, measured in this process."""
    started = time.perf_counter()
    import torch

    from zeropoint.engines import find, load_artefact
    from zeropoint.engines.shapes import stand_in

    find(request["engine"]).import_packages()
    import_seconds = time.perf_counter() - started

    inputs = [stand_in(shape, getattr(torch, dtype)) for shape, dtype in request["inputs"]]
    peak_of_imports = _peak_memory()
    _reset_peak_memory()
    before = _peak_memory()
    started = time.perf_counter()
    runner = load_artefact(request["engine"], Path(request["artefact"]), request["threads"])
    load_seconds = time.perf_counter() - started

    times: list[float] = []
    end = time.perf_counter() + MIN_SECONDS
    while len(times) < MIN_CALLS or time.perf_counter() < end:
        started = time.perf_counter()
        runner.flat(*inputs)
        times.append(time.perf_counter() - started)
    peak = _peak_memory()
    warmup = warmup_calls(times)
    return ColdStart(
        import_seconds=import_seconds,
        load_seconds=load_seconds,
        first_call_seconds=times[0],
        warmup_calls=warmup,
        warmup_seconds=sum(times[:warmup]),
        memory_before_bytes=before,
        peak_memory_bytes=max(peak, peak_of_imports),
        model_memory_bytes=peak - before,
    )


def warmup_calls(times: Sequence[float]) -> int:
    """How many calls come before the first one at steady state, of the times of a fresh process's calls."""
    steady = STEADY * statistics.median(times[len(times) // 2 :])
    return next(number for number, seconds in enumerate(times) if seconds <= steady)


def _peak_memory() -> int:
    """The most memory that was ever resident in this process, in bytes; on Linux since the last reset.

    Linux hands ``ru_maxrss`` on from the process that starts another one, so it is asked only elsewhere.
    """
    with contextlib.suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
        return int(status.split(maxsplit=1)[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak_memory() -> None:
    """Makes what is resident now the peak, if the system can: after imports it is less than their peak."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_measure(json.loads(sys.argv[1])))))
