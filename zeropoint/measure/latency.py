"""Latency: interleaved timing of several candidates, so that a noisy machine is noisy for all."""

import contextlib
import dataclasses
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

LOOK, LOOKS = 0.01, 30  # seconds of a look at whether threads are busy, and most looks
CALM = 3  # looks without work in a row, after which they are idle
BUSY = 0.2  # of a core
# Untimed calls before a timed one where several candidates take turns: so many, or for so long. After the
# call of another model, ResNet-18 for 32 pixels takes 2.1 times as long as alone after one untimed call, 1.3
# times after 3 and 1.02 times after 10 (int8 on OpenVINO, AMD EPYC with VNNI, November 2026).
CALLS, WARM = 10, 0.03
LONG = 0.05  # seconds of a call from which on loading code and weights to the caches does not matter


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time per call, in milliseconds: the median ``p50``, ``p90`` and ``p99``.

    ``low`` and ``high`` are the limits of the median's 95% confidence interval, None if unknown.

    >>> zp.Latency(p50=1.2, p90=1.4, p99=2.1).p90
    1.4
    """

    p50: float
    p90: float
    p99: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95% confidence interval."""

    median: float
    low: float
    high: float


def interleave(
    runs: Mapping[str, Callable[[], object]], *, seconds: float = 3.0, min_rounds: int = 20, warmup: int = 3
) -> dict[str, Seconds]:
    """Times every candidate once per round, in shuffled order; returns seconds per call, one entry per round.

    Element i of every array comes from the same round i, so ratios of two candidates can be paired. Each
    candidate is first called ``warmup`` times untimed. Rounds go on until ``seconds`` have passed, and for at
    least ``min_rounds``. Garbage collection is off meanwhile. Among several candidates each timed call comes
    right after untimed ones of the same, CALLS of them if they take less than WARM, so that it finds its own
    code and weights in the caches, as it does if one model runs alone. Before another candidate's turn the
    threads of the last one become idle.
    """
    rests = {}
    for name, run in runs.items():
        for _ in range(warmup):
            run()
        rests[name] = _busy() if len(runs) > 1 else 0.0
    shuffler = random.Random(0)
    order = list(runs)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    with _no_garbage_collection():
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < min_rounds or time.perf_counter() < end:
            shuffler.shuffle(order)
            for name in order:
                if len(order) > 1 and (not samples[name] or samples[name][-1] < LONG):
                    _warm(runs[name])
                start = time.perf_counter()
                runs[name]()
                samples[name].append(time.perf_counter() - start)
                time.sleep(rests[name])
            rounds += 1
    return {name: np.array(times) for name, times in samples.items()}


def _warm(run: Callable[[], object]) -> None:
    """Calls a candidate until its code and weights are in the caches."""
    end = time.perf_counter() + WARM
    for _ in range(CALLS):
        run()
        if time.perf_counter() > end:
            break


def _busy() -> float:
    """How many seconds from now this process's threads are busy: those of an engine, after its call.

    With several threads ONNX Runtime's wait for the next call in a loop, which takes a core for 50 ms (AMD
    EPYC, two cores, November 2026).
    """
    start, busy, calm = time.perf_counter(), 0.0, 0
    for _ in range(LOOKS):
        before = time.process_time()
        time.sleep(LOOK)
        calm += 1
        if time.process_time() - before > BUSY * LOOK:
            busy, calm = time.perf_counter() - start, 0
        if calm == CALM:
            break
    return busy


def summarize(samples: Seconds) -> Latency:
    """The percentiles of ``samples`` (seconds per call), in milliseconds."""
    p50, p90, p99 = np.percentile(samples, [50, 90, 99]) * 1e3
    low, high = np.percentile(medians(samples) * 1e3, [2.5, 97.5])
    return Latency(float(p50), float(p90), float(p99), float(low), float(high))


def scaled(latency: Latency, median: float) -> Latency:
    """A Latency of the same shape with another median, in milliseconds."""
    times = {name: one for name, one in dataclasses.asdict(latency).items() if one is not None}
    return Latency(**{name: one * median / latency.p50 for name, one in times.items()} | {"p50": median})


def medians(samples: Seconds, resamples: int = 1000) -> Seconds:
    """The medians of bootstrap resamples (Efron, 1979) of rounds, the same for arrays of equal length."""
    rng = np.random.default_rng(0)
    count = len(samples)
    return np.array([np.median(samples[rng.integers(count, size=count)]) for _ in range(resamples)])


def paired_ratio(numerator: Seconds, denominator: Seconds, *, resamples: int = 1000) -> Ratio:
    """The median of ``numerator`` over that of ``denominator``, two arrays that one ``interleave`` returned.

    So it agrees with the medians that are shown beside it. The interval is the percentile bootstrap's over
    rounds. The speed-up of B over A is ``paired_ratio(A, B)``. Raises ValueError if the numbers of rounds
    differ.
    """
    if numerator.shape != denominator.shape:
        raise ValueError(f"cannot pair {len(numerator)} rounds with {len(denominator)}")
    ratios = medians(numerator, resamples) / medians(denominator, resamples)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(float(np.median(numerator) / np.median(denominator)), float(low), float(high))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
