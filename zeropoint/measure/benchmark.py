"""Benchmark: what a Runner takes to run, in time and memory, alone and beside another one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from zeropoint.engines import Runner
from zeropoint.errors import NotNegative, check_value
from zeropoint.measure.coldstart import ColdStart, cold_start
from zeropoint.measure.latency import Latency, Ratio, Seconds, interleave, paired_ratio, summarize

Say = Callable[[str], None]


@dataclass(frozen=True)
class Benchmark:
    """What running a model takes. ``items_per_second`` is the batch size over the median latency.

    ``latency_ms`` is that of a batch. ``cold_start`` has the seconds of loading and of the first call in a
    fresh process, and its memory in bytes.

    >>> runner = zp.compile(quantized, "openvino", threads=1)
    >>> result = zp.benchmark(runner, torch.rand(2, 3, 8, 8), seconds=0.1)
    >>> result.engine, result.threads, result.batch_size
    ('openvino', 1, 2)
    >>> result.cold_start.peak_memory_bytes > 10**6
    True
    """

    engine: str
    threads: int
    batch_size: int
    latency_ms: Latency
    items_per_second: float
    cold_start: ColdStart


@dataclass(frozen=True)
class BenchmarkPair:
    """Two models timed interleaved. ``speedup``: the speed of ``other`` relative to ``model``.

    ``speedup`` has the median ratio and the ``low`` and ``high`` limits of its 95% confidence interval.

    >>> runners = [zp.compile(one, "openvino", threads=1) for one in (program, quantized)]
    >>> pair = zp.benchmark_pair(*runners, torch.rand(1, 3, 8, 8), seconds=0.1)
    >>> pair.speedup.low <= pair.speedup.median <= pair.speedup.high
    True
    """

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
    """Latency and throughput of ``runner`` on ``inputs``, and its cold start in a fresh process.

    ``inputs`` are one tensor or the positional tensors of one call, batch first. The runner is timed for
    ``seconds``, after warm-up. ``say`` is called with a line of text at the start of each stage.

    Raises InputError if the artefact fails on such inputs in a fresh process.

    >>> runner = zp.compile(quantized, "openvino", threads=1)
    >>> result = zp.benchmark(runner, torch.rand(1, 3, 8, 8), seconds=0.1)
    >>> result.latency_ms.p50 <= result.latency_ms.p90 <= result.latency_ms.p99
    True
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
    """The Benchmarks of two Runners on the same inputs, timed interleaved, and the ratio of their speeds.

    Arguments and errors are those of ``benchmark``.

    >>> runners = [zp.compile(one, "openvino", threads=1) for one in (program, quantized)]
    >>> pair = zp.benchmark_pair(*runners, torch.rand(1, 3, 8, 8), seconds=0.1)
    >>> pair.model.engine, pair.other.engine
    ('openvino', 'openvino')
    """
    results, times = _measured([runner, other], inputs, seconds, say)
    return BenchmarkPair(results[0], results[1], paired_ratio(times[0], times[1]))


def _measured(
    runners: Sequence[Runner], inputs: Tensor | Sequence[Tensor], seconds: float, say: Say
) -> tuple[list[Benchmark], list[Seconds]]:
    """The Benchmark of each Runner, and the times of its calls.

    Fresh processes come first: if inputs do not fit, one of those fails, not this one.
    """
    check_value("seconds", seconds, NotNegative)
    known = runners[0].signature
    alone = (inputs,) if isinstance(inputs, Tensor) else inputs
    arguments = tuple(alone) if known is None else known.batch(alone).inputs
    batch_size = len(arguments[0]) if arguments[0].dim() else 1
    cold_starts = []
    for runner in runners:
        say(f"{runner.engine}: starting in a fresh process")
        cold_starts.append(cold_start(runner, arguments))
    say(f"timing for {seconds:g} s")
    calls = {str(i): lambda runner=runner: runner.flat(*arguments) for i, runner in enumerate(runners)}
    times = list(interleave(calls, seconds=seconds).values())
    results = []
    for runner, cold, sample in zip(runners, cold_starts, times, strict=True):
        latency = summarize(sample)
        rate = 1000 * batch_size / latency.p50
        results.append(Benchmark(runner.engine, runner.threads, batch_size, latency, rate, cold))
    return results, times
