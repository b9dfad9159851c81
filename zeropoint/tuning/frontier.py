"""Frontier: what a search measured, which of it is best, and the file that holds it."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from zeropoint.errors import InputError
from zeropoint.files import as_type, atomic_write, read_json
from zeropoint.measure.kept import MaxDrop
from zeropoint.measure.latency import Latency, scaled
from zeropoint.tasks.bootstrap import Change
from zeropoint.tasks.metric import Measure
from zeropoint.tuning.budget import LATENCY, LOSS, SIZE, Budget

FILE, SCHEMA = "tune.json", 1
FIX = "delete it and tune again"
ALIKE = 1.01  # times the least: what is as fast, or as small
POINT = 0.01  # of a metric in percent
OFFERED = 3  # points that are told where none keeps the budget
INTERVAL = 2 * 1.96  # standard errors between the limits of a 95% interval
WIDE = 8.0  # times the noise of a model, or a share of it: what is about as much


@dataclass(frozen=True)
class Cost:
    """What a layer costs in a format, in the network that has that format alone.

    ``weights``: their number; ``seconds``: of its kernels, by the engine's profile; ``noise``: what it adds
    to that of the outputs, to first order, in shares of the signal's power.
    """

    weights: int
    seconds: float
    noise: float


@dataclass(frozen=True)
class Point:
    """A model that was measured. None is "not measured".

    ``formats``: of each layer, or of all as ``*``. ``search_ms``: the median latency, by its ratio to that of
    the uniform W8A8 model in the same interleaved rounds; ``latency_ms``: of a point of the frontier as timed
    together with all others at the end, else scaled to ``search_ms``. ``items``: that it was judged on.
    ``value``: the first metric, a fraction of 1 if it is in percent;
    ``drop``: how much worse than float32's it is, with the limits of its 95% interval. ``sqnr_db``: None also
    where outputs equal float32's. ``predicted_*``: what was foretold before it was made. ``seconds``: what
    making and measuring it took. ``error``: why it could not be run, in a line.
    """

    name: str
    engine: str
    method: str
    formats: dict[str, str]
    size_bytes: int | None = None
    search_ms: float | None = None
    latency_ms: Latency | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    items: int = 0
    value: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    predicted_ms: float | None = None
    predicted_db: float | None = None
    seconds: float = 0.0
    program: str | None = None
    artefact: str | None = None
    error: str | None = None

    @property
    def noise(self) -> float:
        """Of the outputs, in shares of their power."""
        return 0.0 if self.sqnr_db is None else 10 ** (-self.sqnr_db / 10)

    def cost(self, objective: str) -> float:
        """Seconds, bytes, or noise."""
        if objective == LOSS:
            return self.noise
        if objective == SIZE:
            return float(self.size_bytes or 0)
        return self.latency_ms.p50 / 1e3 if self.latency_ms else 0.0

    def searched(self, objective: str) -> float:
        """The cost as the search knew it when the point was measured."""
        return (self.search_ms or 0.0) / 1e3 if objective == LATENCY else self.cost(objective)

    @property
    def as_searched(self) -> "Point":
        """With the latency that the search knew: it must not propose by what was timed at its end."""
        if self.latency_ms is None or self.search_ms is None:
            return self
        return dataclasses.replace(self, latency_ms=scaled(self.latency_ms, self.search_ms))

    @property
    def uniform(self) -> str | None:
        """The format of all layers, if they have the same."""
        names = set(self.formats.values())
        return names.pop() if len(names) == 1 else None


@dataclass(frozen=True)
class Frontier:
    """What a search measured, and the point that it chose.

    ``points``: every model that was measured, in order; ``best`` gives those on the frontier. ``chosen``: the
    name of the one that keeps the budget at the least of its objective; None if none does, or the whole
    curve was asked for. ``tables``: by the name of a uniform
    point, what each layer costs in its format. ``measure``: the first
    metric, or ``fidelity``, which is agreement with float32; None if the data tells neither. ``float_value``:
    float32's. The other fields are those of Results.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> budget = zp.Budget(min_sqnr=30)
    >>> frontier = zp.tune(program, data, budget, out="tuned", engines=["openvino"], formats=["W4A8"])
    >>> frontier[frontier.chosen].noise <= 0.001
    True
    """

    model: str
    data: str
    budget: str
    threads: int
    batch_size: int
    machine: dict[str, Any]
    options: dict[str, Any]
    fingerprint: str
    formats: tuple[str, ...]
    created: str = ""
    command: str = ""
    task: str = ""
    max_drop: str = ""
    engine: str = ""
    measure: Measure | None = None
    fidelity: Measure | None = None
    float_value: float | None = None
    limit: float | None = None
    tables: dict[str, dict[str, Cost]] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    chosen: str | None = None
    schema: int = SCHEMA

    def __getitem__(self, name: str | None) -> Point:
        """The point of that name; raises KeyError if there is none."""
        for point in self.points:
            if point.name == name:
                return point
        raise KeyError(name)

    @property
    def best(self) -> list[Point]:
        """The points to which no other is at least equal in noise, latency and size; the fastest first."""
        good = [point for point in self.points if point.error is None and point.latency_ms is not None]
        kept = [point for point in good if not any(_dominates(other, point) for other in good)]
        return sorted(kept, key=lambda point: point.cost(LATENCY))


def _dominates(one: Point, other: Point) -> bool:
    ours, theirs = ([point.cost(name) for name in (LATENCY, SIZE, LOSS)] for point in (one, other))
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs


def limit_of(drop: MaxDrop | None, measure: Measure | None, float_value: float | None) -> float | None:
    """The most that the metric may drop, a fraction of 1 if it is in percent."""
    if drop is None or measure is None:
        return None
    if drop.relative:
        return drop.amount * POINT * abs(float_value or 0.0)
    return drop.amount * POINT if measure.unit == "%" else drop.amount


def drop_of(change: Change | None, measure: Measure) -> tuple[float, float, float] | None:
    """How much worse than float32's a metric is, with the limits of its interval."""
    if change is None:
        return None
    sign = -1 if measure.higher_is_better else 1
    low, high = sorted((sign * change.low, sign * change.high))
    return sign * change.value, low, high


def misses(point: Point, budget: Budget, limit: float | None) -> dict[str, float]:
    """By how much a point misses each part of the budget, as a share of the limit; empty if it keeps it."""
    found = {}
    if limit is not None and (point.drop is None or point.drop > limit + 1e-9):
        found["drop"] = 1.0 if point.drop is None else (point.drop - limit) / max(limit, POINT / 10)
    if budget.min_sqnr is not None and point.sqnr_db is not None and point.sqnr_db < budget.min_sqnr:
        found["SQNR"] = (budget.min_sqnr - point.sqnr_db) / budget.min_sqnr
    for name, most in budget.limits.items():
        if point.cost(name) > most:
            found[name] = point.cost(name) / most - 1
    return found


def is_lucky(point: Point, points: Sequence[Point], limit: float | None) -> bool:
    """Whether a drop is within the limit by chance: by that of models with about as much noise it is not.

    Drops are in proportion to noise there, which the sums of both tell better than one model. What they tell
    has to be over the limit by more than the standard error of a drop, or it is chance, too.
    """
    if limit is None or point.drop is None or not point.noise:
        return False
    alike = [one for one in points if one.drop is not None and 1 / WIDE < one.noise / point.noise < WIDE]
    noise = sum(one.noise for one in alike)
    if not noise:
        return False
    told = sum(one.drop or 0.0 for one in alike) / noise * point.noise
    error = ((point.drop_high or 0.0) - (point.drop_low or 0.0)) / INTERVAL
    return told > limit + error + 1e-9


def choose(points: Sequence[Point], budget: Budget, limit: float | None) -> Point | None:
    """The point that keeps the budget at the least of its objective: of those alike, with the least noise.

    Points that do by chance are taken only where no other does.
    """
    able = [point for point in points if point.error is None and point.latency_ms is not None]
    kept = [point for point in able if not misses(point, budget, limit)]
    kept = [point for point in kept if not is_lucky(point, able, limit)] or kept
    if not kept:
        return None
    least = min(point.cost(budget.objective) for point in kept)
    alike = [point for point in kept if point.cost(budget.objective) <= ALIKE * least]
    return min(alike, key=lambda point: (point.noise, point.cost(budget.objective), point.name))


def nearest(points: Sequence[Point], budget: Budget, limit: float | None) -> list[Point]:
    """The points by how far they are from the budget, the nearest first."""
    able = [point for point in points if point.error is None and point.latency_ms is not None]
    return sorted(able, key=lambda point: max(misses(point, budget, limit).values(), default=0.0))


def plain(frontier: Frontier) -> dict[str, Any]:
    """As plain values, for JSON."""
    return dataclasses.asdict(frontier)


def save(frontier: Frontier, folder: Path) -> None:
    """Writes tune.json, whole or not at all."""
    with atomic_write(folder / FILE) as path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(plain(frontier))) + b"\n")


def load(folder: Path) -> Frontier:
    """What ``save`` wrote. Raises InputError if the file is missing, damaged, or of a newer zeropoint."""
    path = folder / FILE
    if not path.exists():
        raise InputError(f"no {FILE} in {folder}: give the folder that `zeropoint tune --out` wrote")
    record = read_json(path, FIX)
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} is of schema {schema}, and this zeropoint reads {SCHEMA}; {FIX}")
    return as_type(record, Frontier, path, FIX)


def describe(point: Point) -> str:
    """A point in words: its method, formats, engine and numbers."""
    counts = Counter(point.formats.values())
    mixed = ", ".join(f"{name} in {count} layers" for name, count in counts.most_common())
    what = point.uniform or f"a mixture ({mixed})"
    return f"{point.method} {what} on {point.engine}"


def nothing_keeps(frontier: Frontier, budget: Budget) -> str:
    """In a line, that nothing keeps the budget, the nearest, and what each misses."""
    told = []
    for point in nearest(frontier.points, budget, frontier.limit)[:OFFERED]:
        parts = ", ".join(_missed(name, point, frontier) for name in misses(point, budget, frontier.limit))
        told.append(f"{describe(point)} misses {parts}")
    return f"no model has {budget.limits_text}; the nearest of {len(frontier.points)}: {'; '.join(told)}"


def _missed(name: str, point: Point, frontier: Frontier) -> str:
    percent = frontier.measure is not None and frontier.measure.unit == "%"
    drop = "unknown" if point.drop is None else f"{point.drop * (100 if percent else 1):.3g}"
    return {
        "drop": f"the drop ({drop})",
        "SQNR": f"the SQNR ({point.sqnr_db or 0:.1f} dB)",
        LATENCY: f"the latency ({1e3 * point.cost(LATENCY):.3g} ms)",
        SIZE: f"the size ({(point.size_bytes or 0) / 1e6:.3g} MB)",
    }[name]
