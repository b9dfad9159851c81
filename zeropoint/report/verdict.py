"""The verdict: which row to ship, and why."""

from collections.abc import Sequence

from zeropoint.measure.kept import Standing, standings
from zeropoint.measure.results import Results, Row
from zeropoint.report.figures import (
    decibels,
    difference,
    figures,
    megabytes,
    ratio,
    value_text,
)

EQUAL = 0.02  # of the time: rows that differ by less are called equally fast
UNQUANTIZED = ", and no quantized one was measured"
MORE_METHODS = ("static", "static-best", "qat")
"""What keeps more accuracy, in the order of the effort."""


def verdict(results: Results) -> str:
    """The fastest row that keeps float32's accuracy, with its speed, size and accuracy.

    Of rows that are equally fast it is the most accurate one. A row whose parity failed by its SQNR is not
    recommended, and the verdict says so. It also says which kept row is the smallest and which the most
    accurate, if the row is a float one although quantized ones were measured, and what it would take if no
    quantized row keeps the accuracy. Of a search it is the row that the search chose.
    """
    if results.budget:
        return _searched(results)
    wrong = [row for row in results.rows if row.error is None and row.latency_ms is not None and row.is_wrong]
    measured = standings(results)
    if not measured and not wrong:
        waiting = any(row.error is None for row in results.rows)
        return f"No verdict: {'rows are timed at the end' if waiting else 'no row was measured'}."
    if not measured:
        return f"Ship none of these: {_wrong(wrong)}."
    recommended = _recommended(measured, results, "" if any(row.quantized for row in wrong) else UNQUANTIZED)
    return f"{recommended} Do not ship {_wrong(wrong)}." if wrong else recommended


def _searched(results: Results) -> str:
    """What a search chose."""
    if not results.chosen:
        return f"Nothing is chosen: the search was for {results.budget}."
    chosen = next(one for one in standings(results) if one.row.name == results.chosen)
    return f"Ship {chosen.row.name}: {', '.join(_facts(chosen))}; {results.budget}."


def _wrong(rows: list[Row]) -> str:
    """Which rows compute something else than the simulation, and why."""
    names = ", ".join(row.name for row in rows)
    causes = [row.parity.cause for row in rows if row.parity and row.parity.cause]
    why = "int8 results overflow on this processor" if causes else "parity with the simulation failed"
    return f"{names}: {why}"


def _recommended(measured: list[Standing], results: Results, unquantized: str) -> str:
    kept = [one for one in measured if one.kept == "yes"]
    if not kept:
        return f"Ship none of these: no row keeps {_accuracy_of(measured, results)}: {_needed(measured)}"
    best = fastest(kept)
    ship = f"Ship {best.row.name}: {', '.join(_facts(best))}"
    parity = best.row.parity
    fidelity = results.fidelity
    if parity is not None and not parity.ok and parity.agreement is not None and fidelity is not None:
        what = "the simulation's class for" if fidelity.name == "agreement" else f"{fidelity.name} of"
        ship += f", though the engine gives {what} {value_text(parity.agreement, fidelity)} alone"
    ship += f"; {_superlative(best, kept, _accuracy_of(measured, results))}"
    others = _others(best, kept)
    quantized = [one for one in measured if one.row.quantized]
    if best.row.quantized:
        return f"{ship}.{others}{_unsure(measured, best)}"
    if not quantized:
        return f"{ship}{unquantized}."
    faithful = [one for one in kept if one.row.quantized]
    if not faithful:
        return f"{ship}. No quantized row does: {_needed(quantized)}"
    rival = min(faithful, key=_time)
    beaten = "every quantized row" + (" that does" if len(faithful) < len(quantized) else "")
    line = (
        f"{ship}. Float beats {beaten}: {rival.row.name} takes {ratio(_time(rival) / _time(best))}× as long."
    )
    return f"{line}{others}"


def fastest(kept: Sequence[Standing]) -> Standing:
    """The most accurate of the rows as fast as the fastest one, of the quantized ones if there are any."""
    first = min(kept, key=_time)
    equal = [one for one in kept if _as_fast(one, first)]
    return max([one for one in equal if one.row.quantized] or equal, key=_accuracy_rank)


def _as_fast(one: Standing, other: Standing) -> bool:
    """Whether two rows differ by less than EQUAL, or their medians' intervals overlap."""
    if abs(_time(one) / _time(other) - 1) < EQUAL:
        return True
    (low, high), (least, most) = (_interval(each) for each in (one, other))
    return low <= most and least <= high


def _interval(one: Standing) -> tuple[float, float]:
    """The interval of a row's time, in the unit of ``_time``."""
    latency, time = one.row.latency_ms, _time(one)
    if latency is None or latency.low is None or latency.high is None:
        return time, time
    return time * latency.low / latency.p50, time * latency.high / latency.p50


def _accuracy_rank(one: Standing) -> tuple[bool, float, float, float]:
    """Identical outputs first, then the smaller drop, then SQNR, then speed."""
    row = one.row
    identical = row.weight_bits >= 32 or (row.sqnr_db is None and row.agreement in (None, 1.0))
    return identical, -(one.drop or 0.0), row.sqnr_db or 0.0, -_time(one)


def _superlative(best: Standing, kept: Sequence[Standing], accuracy: str) -> str:
    first = min(kept, key=_time)
    equal = [one for one in kept if _as_fast(one, first) and one.row.quantized == best.row.quantized]
    if len(equal) == 1:
        return f"the fastest row that keeps {accuracy}"
    return f"the most accurate of the {len(equal)} fastest rows that keep {accuracy}, which are equally fast"


def _accuracy_of(measured: Sequence[Standing], results: Results) -> str:
    """What it is that rows keep, in words."""
    known = next((one for one in measured if one.measure is not None and one.drop is not None), None)
    if not results.max_drop or known is None or known.measure is None:
        return "float32's accuracy"
    if results.max_drop.endswith("%"):
        return f"{known.measure.name} within {results.max_drop} of float32's"
    unit = "points" if known.measure.unit == "%" else known.measure.unit
    amount = " ".join(filter(None, (results.max_drop, unit)))
    return f"{known.measure.name} within {amount} of float32's"


def _facts(one: Standing) -> list[str]:
    row = one.row
    facts = [f"{figures(row.latency_ms.p50)} ms"] if row.latency_ms else []
    if row.speedup_eager is not None:
        facts.append(f"{ratio(row.speedup_eager)}× the speed of eager float32")
    elif row.speedup_engine is not None and row.quantized:
        facts.append(f"{ratio(row.speedup_engine)}× the speed of float32")
    if row.shrink is not None and row.quantized:
        facts.append(f"{ratio(row.shrink)}× smaller")
    return [*facts, _accuracy(one)]


def _accuracy(one: Standing) -> str:
    """The first metric with its change from float32, or how close the outputs are."""
    row = one.row
    if one.measure is None or one.value is None:
        if row.weight_bits >= 32:
            return "float32's own outputs"
        return "identical outputs" if row.sqnr_db is None else f"SQNR {decibels(row.sqnr_db)}"
    text = f"{one.measure.name} {value_text(one.value, one.measure)}"
    if one.drop is None:
        return text
    sign = -1 if one.measure.higher_is_better else 1
    change = difference(sign * one.drop, one.measure)
    if one.least is not None and one.most is not None and one.most - one.least > 1e-3 * one.limit:
        low, high = sorted((sign * one.least, sign * one.most))
        change += (
            f", 95% interval {difference(low, one.measure, False)} to {difference(high, one.measure, False)}"
        )
    return f"{text} ({change})"


def _others(best: Standing, kept: Sequence[Standing]) -> str:
    """The smallest and the most accurate of the quantized rows that keep the accuracy, if they are others."""
    quantized = [one for one in kept if one.row.quantized and one.row.size_bytes is not None]
    if not quantized:
        return ""
    smallest = min(quantized, key=lambda one: one.row.size_bytes or 0)
    finest = max(quantized, key=_accuracy_rank)
    facts = []
    if smallest is not best and (smallest.row.size_bytes or 0) < (best.row.size_bytes or 0):
        facts.append(f"the smallest is {smallest.row.name} ({megabytes(smallest.row.size_bytes or 0)} MB)")
    if finest is not best and _accuracy_rank(finest)[:2] > _accuracy_rank(best)[:2]:
        facts.append(f"the most accurate is {finest.row.name} ({_accuracy(finest)})")
    return f" Of the quantized rows that do, {' and '.join(facts)}." if facts else ""


def _unsure(measured: Sequence[Standing], best: Standing) -> str:
    """The fastest row that may keep the accuracy, if it is faster than the recommended one."""
    unsure = [one for one in measured if one.kept == "unsure" and _time(one) < _time(best)]
    if not unsure:
        return ""
    one = min(unsure, key=_time)
    return f" {one.row.name} is faster and may keep it, too: {_accuracy(one)}; more samples would tell."


def _needed(measured: Sequence[Standing]) -> str:
    """What it would take to keep the accuracy."""
    quantized = [one for one in measured if one.row.quantized] or list(measured)
    closest = max(
        quantized, key=lambda one: (-(one.drop or 0.0), one.row.agreement or 0.0, one.row.sqnr_db or 0)
    )
    line = f"the closest, {closest.row.name}, has {_accuracy(closest)}"
    fixes = []
    if closest.kept == "unsure":
        fixes.append("more samples, since the interval reaches the limit")
    if closest.measure is not None and closest.drop is not None:
        drop = 100 * closest.drop if closest.measure.unit == "%" else closest.drop
        fixes.append(f"--max-drop {figures(drop * 1.001)}")
    tried = {one.row.method for one in measured}
    fixes += [f"--methods {name}" for name in MORE_METHODS if name not in tried][:1]
    return f"{line}; it would take {', or '.join(fixes)}." if fixes else f"{line}."


def _time(one: Standing) -> float:
    """Time relative to eager float32's, timed interleaved with each row: a machine drifts."""
    row = one.row
    if row.speedup_eager:
        return 1 / row.speedup_eager
    return row.latency_ms.p50 if row.latency_ms is not None else float("inf")
