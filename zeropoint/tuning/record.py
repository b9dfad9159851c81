"""Record: the points of a search, asked for in order, and taken from its file or measured."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zeropoint.tuning import candidates
from zeropoint.tuning.budget import Budget
from zeropoint.tuning.candidates import Setting, Table
from zeropoint.tuning.formats import FLOAT, INT8, Candidate
from zeropoint.tuning.frontier import Frontier, Point, choose, save
from zeropoint.tuning.workers import Does, Work


@dataclass(frozen=True)
class Asked:
    """A candidate to be measured: beside which point it is timed, and its milliseconds and dB foretold."""

    candidate: Candidate
    beside: Point | None = None
    predicted: tuple[float, float] | None = None


@dataclass
class Record:
    """What a search has measured. ``asked``: the names of the candidates that it asked for, in order.

    A search that goes on asks for the same ones in the same order, with the numbers of the file: proposals
    depend on nothing else, so that they are the same. ``does`` the work, of what is asked for at once in
    any order.
    """

    setting: Setting
    frontier: Frontier
    budget: Budget
    time_limit: float | None
    does: Does
    asked: list[str] = field(default_factory=list)

    @property
    def visited(self) -> list[Point]:
        """The points that this run has asked for, in order."""
        found = {point.name: point for point in self.frontier.points}
        return [found[one].as_searched for one in self.asked if one in found]

    @property
    def spent(self) -> float:
        """The seconds that this search took, before an interruption, too."""
        return sum(point.seconds for point in self.visited)

    def visit(self, asked: Sequence[Asked], *, may_stop: bool = False) -> list[Point]:
        """The points of candidates, in order, from the file or measured now.

        ``may_stop``: those for which there is no time left are missing.
        """
        foretold = {one.candidate.name: one.predicted or (None, None) for one in asked}
        started = time.perf_counter()
        for point, table in self.does(self._missing(asked, may_stop)):
            ended, (milliseconds, decibels) = time.perf_counter(), foretold[point.name]
            point = replace(point, predicted_ms=milliseconds, predicted_db=decibels, seconds=ended - started)
            started = ended
            rank = {name: number for number, name in enumerate(self.asked)}
            points = sorted((*self.frontier.points, point), key=lambda one: rank.get(one.name, -1))
            tables = self.frontier.tables | ({point.name: table} if table else {})
            self.update(points=tuple(points), tables=tables)
        found = {point.name: point for point in self.visited}
        return [found[one.candidate.name] for one in asked if one.candidate.name in found]

    def _missing(self, asked: Sequence[Asked], may_stop: bool) -> Iterator[Work]:
        """The work of measuring the candidates that were not, each when there is time for it."""
        for one in asked:
            name = one.candidate.name
            if may_stop and self.is_over():
                return
            if name in self.asked:
                continue
            self.asked.append(name)
            if all(point.name != name for point in self.frontier.points):
                self._tell(one.candidate)
                others = one.beside, self.known(one.candidate.engine, FLOAT)
                reads = candidates.read(self.setting, one.candidate, *others)
                yield Work(name, functools.partial(_measured, one.candidate, *others), reads)

    def known(self, engine: str, format: str) -> Point | None:
        """The uniform point of an engine in a format, if it could be run."""
        points = (point for point in self.visited if point.engine == engine and point.uniform == format)
        return next((point for point in points if point.error is None), None)

    def beside(self, engine: str) -> Point | None:
        """What mixtures on an engine are timed beside."""
        return self.known(engine, INT8) or self.known(engine, FLOAT)

    def is_over(self) -> bool:
        """Whether the time is spent."""
        return self.time_limit is not None and self.spent >= self.time_limit

    def update(self, **changed: Any) -> None:
        """Changes the frontier, and its file."""
        self.frontier = dataclasses.replace(self.frontier, **changed)
        save(self.frontier, self.setting.folder)

    def _tell(self, candidate: Candidate) -> None:
        """Says what comes next, the best so far, and the time that is left."""
        kept = None if self.budget.frontier else choose(self.visited, self.budget, self.frontier.limit)
        number = len({*self.asked, *(point.name for point in self.frontier.points)})
        parts = [f"model {number}: {candidate.name}"]
        if kept:
            parts.append(f"best so far {kept.search_ms:.3g} ms, {(kept.size_bytes or 0) / 1e6:.3g} MB")
        if self.time_limit is not None:
            parts.append(f"{max(self.time_limit - self.spent, 0) / 60:.1f} min left")
        self.setting.say("; ".join(parts))


def _measured(
    candidate: Candidate, beside: Point | None, floats: Point | None, setting: Setting
) -> list[tuple[Point, Table]]:
    return [candidates.measured(setting, candidate, beside, floats)]
