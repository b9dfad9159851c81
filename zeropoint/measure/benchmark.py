"""Benchmark: what a Runner takes to run, in time and memory, alone and beside another one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from zeropoint.engines import Runner
from zeropoint.measure.coldstart import ColdStart, cold_start
from zeropoint.measure.latency import Latency, Ratio, Seconds, interleave, paired_ratio, summarize

Say = Callable[[str], None]


@dataclass(frozen=True)
class Benchmark:
    """What running a model takes. ``items_per_second`` is the batch size over the median latency."""

    engine: str
    threads: int
    batch_size: int
    latency_ms: Latency
    items_per_second: float
    cold_start: ColdStart


@dataclass(frozen=True)
class BenchmarkPair:
    """Two models timed interleaved. ``speedup`` is how many times as fast the other is as the model."""

    model: Benchmark
    other: Benchmark
    speedup: Ratio

    @property
    def differs(self) -> bool:
        """Whether the speed-up's 95% confidence interval excludes 1."""
        return not self.speedup.low <= 1 <= self.speedup.high


def benchmark(
    runner: Runner,
    inputs: Tensor | Sequence[Tensor],
    *,
    seconds: float = 3.0,
    say: Say = lambda _: None,
) -> Benchmark:
    """Latency and throughput of ``runner`` on ``inputs``, timed for ``seconds``, and its cold start.

    ``say`` is told in a line what is being done. Raises InputError where the artefact fails on such inputs in
    a fresh process.
    """
    (result,), _ = _measured([runner], inputs, seconds, say)
    return result


def benchmark_pair(
    runner: Runner,
    other: Runner,
    inputs: Tensor | Sequence[Tensor],
    *,
    seconds: float = 3.0,
    say: Say = lambda _: None,
) -> BenchmarkPair:
    """The Benchmarks of two Runners on the same inputs, timed interleaved, and the ratio of their speeds."""
    results, times = _measured([runner, other], inputs, seconds, say)
    return BenchmarkPair(results[0], results[1], paired_ratio(times[0], times[1]))


def _measured(
    runners: Sequence[Runner], inputs: Tensor | Sequence[Tensor], seconds: float, say: Say
) -> tuple[list[Benchmark], list[Seconds]]:
    """The Benchmark of each Runner, and the times of its calls.

    Fresh processes come first: where inputs do not fit, it is one of those that fails.
    """
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    batch_size = len(arguments[0]) if arguments[0].dim() else 1
    cold_starts = []
    for runner in runners:
        say(f"{runner.engine}: starting in a fresh process")
        cold_starts.append(cold_start(runner, arguments))
    say(f"timing for {seconds:g} s")
    calls = {str(i): lambda runner=runner: runner(*arguments) for i, runner in enumerate(runners)}
    times = list(interleave(calls, seconds=seconds).values())
    results = []
    for runner, cold, sample in zip(runners, cold_starts, times, strict=True):
        latency = summarize(sample)
        rate = 1000 * batch_size / latency.p50
        results.append(Benchmark(runner.engine, runner.threads, batch_size, latency, rate, cold))
    return results, times
