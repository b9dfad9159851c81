"""Ratios of interleaved timings: the fastest of one group of rows over the fastest of another."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from zeropoint.measure.latency import Ratio, Seconds, paired_ratio


@dataclass(frozen=True)
class Comparison:
    """Row ``ours`` over row ``theirs``, each the fastest of its group; below 1 ours is faster."""

    ours: str
    theirs: str
    ratio: Ratio


def compare(samples: Mapping[str, Seconds], ours: Iterable[str], theirs: Iterable[str]) -> Comparison | None:
    """The fastest of the rows ``ours`` over the fastest of ``theirs``; None if a group has no samples."""
    first, second = fastest(samples, ours), fastest(samples, theirs)
    if first is None or second is None:
        return None
    return Comparison(first, second, paired_ratio(samples[first], samples[second]))


def fastest(samples: Mapping[str, Seconds], rows: Iterable[str]) -> str | None:
    """The row with the smallest median, of those that have samples; None if none has."""
    timed = [row for row in rows if row in samples]
    return min(timed, key=lambda row: median(samples[row]), default=None)


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers. Raises ValueError if there are none."""
    logarithms = [math.log(value) for value in values]
    if not logarithms:
        raise ValueError("no values to average")
    return math.exp(sum(logarithms) / len(logarithms))
