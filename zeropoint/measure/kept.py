"""Which rows keep float32's accuracy, and how sure that is."""

import math
from dataclasses import dataclass
from typing import Literal

from zeropoint.errors import InputError
from zeropoint.measure.results import EAGER, Results, Row
from zeropoint.tasks.metric import Measure

POINT = 0.01  # of a metric in percent: what a row may lose by default
SHARE = 0.01  # of float32's value of any other metric
MIN_SQNR_DB = 20.0  # what keeps the accuracy where there is neither a metric nor an agreement


@dataclass(frozen=True)
class MaxDrop:
    """How much worse than float32's a metric may be: in its unit, or ``relative`` to float32's value."""

    amount: float
    relative: bool = False

    @staticmethod
    def of(text: str | float | None) -> "MaxDrop | None":
        """Reads 0.5 or "2%"; None for None or "". Raises InputError for anything else."""
        if text is None or text == "":
            return None
        try:
            amount = float(str(text).removesuffix("%"))
        except ValueError:
            amount = math.nan
        if not 0 <= amount < math.inf:
            raise InputError(f"--max-drop {text} is no amount; give one as in 0.5, or as in 2% of float32's")
        return MaxDrop(amount, str(text).endswith("%"))

    def __str__(self) -> str:
        return f"{self.amount:g}{'%' if self.relative else ''}"


@dataclass(frozen=True)
class Standing:
    """A row against float32: whether it keeps the accuracy, and the numbers that say so.

    ``measure``: what was compared, None if that is SQNR. ``drop``: how much worse the row is, ``least`` and
    ``most`` the limits of its 95% interval, None if unknown, and ``limit`` what it may be; of a measure in
    percent all are fractions of 1. A drop over the limit whose interval reaches it is "unsure".
    """

    row: Row
    kept: Literal["yes", "unsure", "no"]
    measure: Measure | None = None
    value: float | None = None
    drop: float | None = None
    least: float | None = None
    most: float | None = None
    limit: float = 0.0


def standings(results: Results) -> list[Standing]:
    """That of every row that was measured and computes what its Program does."""
    rows = [row for row in results.rows if row.error is None and row.latency_ms is not None]
    return [_standing(row, results) for row in rows if not row.is_wrong]


def first_measure(results: Results) -> Measure | None:
    """What verdicts speak of: the first metric, else agreement with float32, else None for SQNR."""
    if results.metrics:
        return results.metrics[0]
    agreement = results.fidelity
    shared = agreement is not None and agreement.unit == "%"
    return agreement if shared and any(row.agreement is not None for row in results.rows) else None


def value_of(row: Row, measure: Measure, results: Results) -> float | None:
    """A row's value of the first measure."""
    return row.values.get(measure.name) if results.metrics else row.agreement


def _standing(row: Row, results: Results) -> Standing:
    measure = first_measure(results)
    value = None if measure is None else value_of(row, measure, results)
    base = _float32(row, measure, value, results) if measure is not None else None
    if measure is None or value is None or base is None:
        faithful = row.sqnr_db is None or row.sqnr_db >= MIN_SQNR_DB  # None: identical to float32
        return Standing(row, "yes" if faithful or row.weight_bits >= 32 else "no", value=value)
    sign = -1 if measure.higher_is_better else 1
    drop, limit = sign * (value - base), _limit(results.max_drop, measure, base)
    least, most = sorted((sign * row.change.low, sign * row.change.high)) if row.change else (None, None)
    if row.weight_bits >= 32 or drop <= limit + 1e-9:  # exactly the limit is still within
        kept: Literal["yes", "unsure", "no"] = "yes"
    else:
        kept = "unsure" if least is not None and least <= limit else "no"
    return Standing(row, kept, measure, value, drop, least, most, limit)


def _float32(row: Row, measure: Measure, value: float | None, results: Results) -> float | None:
    """The float network's value on eager PyTorch, else of float32 on another engine."""
    if not results.metrics:
        return 1.0
    if row.change is not None and value is not None:
        return value - row.change.value
    float32 = sorted(
        (one for one in results.rows if one.weight_bits >= 32 and one.error is None),
        key=lambda one: one.engine != EAGER,
    )
    return value_of(float32[0], measure, results) if float32 else None


def _limit(max_drop: str, measure: Measure, base: float) -> float:
    given = MaxDrop.of(max_drop)
    if given is None:
        return POINT if measure.unit == "%" else SHARE * abs(base)
    if given.relative:
        return given.amount / 100 * abs(base)
    return given.amount / 100 if measure.unit == "%" else given.amount
