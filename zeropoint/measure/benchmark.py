"""Benchmark: the latency of one run of a model."""

from collections.abc import Sequence

from torch import Tensor

from zeropoint.measure.evaluate import Run
from zeropoint.measure.latency import Latency, interleave, summarize


def benchmark(run: Run, inputs: Tensor | Sequence[Tensor], *, seconds: float = 3.0) -> Latency:
    """The percentiles of the time of a call of ``run`` on ``inputs``, in milliseconds.

    To compare runs, time them in one ``zeropoint.measure.latency.interleave``: a machine's speed drifts.
    """
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return summarize(interleave({"run": lambda: run(*arguments)}, seconds=seconds)["run"])
