"""The verdict: which row to ship, and why, in one line."""

from zeropoint.measure.results import EAGER, Results, Row
from zeropoint.report.figures import decibels, figures, percent, ratio

MAX_TOP1_LOSS = 0.01
"""A row keeps the accuracy when its top-1 is at most this far below float32's."""
UNQUANTIZED = ", and no quantized one was measured"
MIN_AGREEMENT = 0.99
MIN_SQNR_DB = 20.0
"""Without labels, a row keeps the accuracy when it reaches either of these two."""


def verdict(results: Results) -> str:
    """The fastest row that keeps float32's accuracy, with its speed, size and accuracy.

    A row whose parity failed by its SQNR is not recommended, and the verdict says so. It also says so if the
    row is a float one although quantized ones were measured, and if no quantized row keeps the accuracy.
    """
    measured = [row for row in results.rows if row.error is None and row.latency_ms is not None]
    wrong = [row for row in measured if row.is_wrong]
    measured = [row for row in measured if not row.is_wrong]
    if not measured:
        return "No verdict: no row was measured." if not wrong else f"Ship none of these: {_wrong(wrong)}."
    recommended = _recommended(
        measured, unquantized="" if any(row.quantized for row in wrong) else UNQUANTIZED
    )
    return f"{recommended} Do not ship {_wrong(wrong)}." if wrong else recommended


def _wrong(rows: list[Row]) -> str:
    """Which rows compute something else than the simulation, and why."""
    names = ", ".join(row.name for row in rows)
    causes = [row.parity.cause for row in rows if row.parity and row.parity.cause]
    why = "int8 results overflow on this processor" if causes else "parity with the simulation failed"
    return f"{names}: {why}"


def _recommended(measured: list[Row], unquantized: str) -> str:
    float32_top1 = _float32_top1(measured)
    kept = [row for row in measured if keeps_accuracy(row, float32_top1)]
    if not kept:
        return "Ship none of these: no row keeps float32's accuracy."
    best = min(kept, key=_time)
    ship = f"Ship {best.name}: {', '.join(_facts(best, float32_top1))}"
    if best.parity is not None and not best.parity.ok and best.parity.agreement is not None:
        ship += (
            f", though the engine gives the simulation's class for {percent(best.parity.agreement)}% alone"
        )
    if best.quantized:
        return f"{ship}; the fastest row that keeps float32's accuracy."
    quantized = [row for row in measured if row.quantized]
    if not quantized:
        return f"{ship}; the fastest row that keeps float32's accuracy{unquantized}."
    faithful = [row for row in kept if row.quantized]
    if not faithful:
        return f"{ship}. No quantized row keeps float32's accuracy: {_closest(quantized, float32_top1)}."
    rival = min(faithful, key=_time)
    beaten = "every quantized row"
    if len(faithful) < len(quantized):
        beaten += " that keeps the accuracy"
    return f"{ship}. Float beats {beaten}: {rival.name} takes {ratio(_time(rival) / _time(best))}× as long."


def keeps_accuracy(row: Row, float32_top1: float | None) -> bool:
    """Whether ``row`` is within the limits above; without both top-1 figures, fidelity stands in."""
    if row.weight_bits >= 32:
        return True
    if row.top1 is not None and float32_top1 is not None:
        return row.top1 >= float32_top1 - MAX_TOP1_LOSS - 1e-9  # exactly one point is still within
    if row.agreement is not None and row.agreement >= MIN_AGREEMENT:
        return True
    return row.sqnr_db is None or row.sqnr_db >= MIN_SQNR_DB  # None: identical to float32


def _float32_top1(rows: list[Row]) -> float | None:
    """Eager float32's top-1, or if it was not measured, another engine's."""
    float32 = sorted((row for row in rows if row.weight_bits >= 32), key=lambda row: row.engine != EAGER)
    return float32[0].top1 if float32 else None


def _facts(row: Row, float32_top1: float | None) -> list[str]:
    facts = [f"{figures(_median(row))} ms"]
    if row.speedup_eager is not None:
        facts.append(f"{ratio(row.speedup_eager)}× the speed of eager float32")
    if row.shrink is not None and row.quantized:
        facts.append(f"{ratio(row.shrink)}× smaller")
    return [*facts, _accuracy(row, float32_top1)]


def _accuracy(row: Row, float32_top1: float | None) -> str:
    if row.top1 is not None:
        change = "" if float32_top1 is None else f" ({(row.top1 - float32_top1) * 100:+.2f} points)"
        return f"top-1 {percent(row.top1)}%{change}"
    if row.weight_bits >= 32:
        return "float32's own outputs"
    sqnr = "identical outputs" if row.sqnr_db is None else f"SQNR {decibels(row.sqnr_db)}"
    return sqnr if row.agreement is None else f"{percent(row.agreement)}% agreement with float32, {sqnr}"


def _closest(quantized: list[Row], float32_top1: float | None) -> str:
    closest = max(quantized, key=lambda row: (row.top1 or 0.0, row.agreement or 0.0, row.sqnr_db or 0.0))
    return f"the closest, {closest.name}, has {_accuracy(closest, float32_top1)}"


def _time(row: Row) -> float:
    """Time relative to eager float32's, timed interleaved with each row: a machine drifts."""
    return 1 / row.speedup_eager if row.speedup_eager else _median(row)


def _median(row: Row) -> float:
    return row.latency_ms.p50 if row.latency_ms is not None else float("inf")
