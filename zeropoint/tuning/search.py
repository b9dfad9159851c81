"""Tune: from a budget to the model that keeps it, by measuring what an integer program proposes.

Uniform models of every format tell what each layer costs in it: noise by slopes (as ModelOpt's AutoQuantize
scores formats by gradients), time by the engine's profile, size by bits. The format of each layer is then an
integer linear program (as in HAWQ-V3, Yao et al. 2021, arXiv 2011.10680, section 3.3). What it proposes is
made and measured, the costs are fitted to all that was measured, and it proposes again.
"""

import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zeropoint import tasks
from zeropoint.data import Loaders
from zeropoint.data.loaders import check_loaders
from zeropoint.engines import installed
from zeropoint.errors import Count, InputError, Positive, check_value, interruption_tells
from zeropoint.files import empty_removed, make_folder
from zeropoint.graph.program import Program, at_batch, check_program
from zeropoint.graph.signature import flat_loaders
from zeropoint.measure import samples
from zeropoint.measure.evaluate import Fitting
from zeropoint.measure.evaluate import check as check_task
from zeropoint.measure.fingerprint import fingerprint
from zeropoint.measure.latency import Latency
from zeropoint.targets.options import Options
from zeropoint.targets.processor import warn_of
from zeropoint.tasks import Task
from zeropoint.training.task import OwnLoss
from zeropoint.tuning import candidates
from zeropoint.tuning.budget import LATENCY, LOSS, SIZE, Budget
from zeropoint.tuning.candidates import Setting
from zeropoint.tuning.costs import Costs, of_tables, refitted
from zeropoint.tuning.formats import DEFAULT, FLOAT, INT8, Candidate, checked, find
from zeropoint.tuning.frontier import (
    Frontier,
    Point,
    choose,
    is_lucky,
    misses,
    nearest,
    nothing_keeps,
)
from zeropoint.tuning.record import Asked, Record
from zeropoint.tuning.solve import check_solver, solve
from zeropoint.tuning.start import able, begin, check_methods, check_metric, first_measure
from zeropoint.tuning.workers import check_workers, opened

PROBES = 2  # networks of random formats, measured so that costs are fitted to mixtures, too
ROUNDS = 12  # of proposals, at most
CURVE = 6  # points of a curve
CLOSE = 1.12  # between the noise that keeps the accuracy and that which does not: 0.5 dB
# Times the least cost so far: proposals must promise less. Latencies are foretold to 2 or 3%.
GAIN = {LATENCY: 0.98, SIZE: 0.995, LOSS: 0.995}


def tune(
    program: Program,
    data: Loaders,
    budget: Budget,
    *,
    out: str | os.PathLike[str],
    engines: Sequence[str] | None = None,
    formats: Sequence[str] = DEFAULT,
    methods: Sequence[str] = ("static",),
    options: Options | None = None,
    threads: int = 1,
    batch_size: int = 1,
    task: str | Task | None = None,
    metrics: Any = (),
    higher_is_better: bool | None = None,
    postprocess: Callable[[Any], Any] | None = None,
    loss: OwnLoss | None = None,
    time_limit: float | None = None,
    workers: str | None = None,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Frontier:
    """Searches the format of each layer with which the model keeps a ``budget`` at the least cost.

    ``program`` is float. ``formats`` are those to choose from, such as W4A8; float and W8A8 are always among
    them. ``engines`` None: those installed; the one whose W8A8 model costs least is searched. The first of
    ``methods`` makes all candidates, the others the best ones again: ``static-best``, and ``qat`` with train
    data. Metrics are measured on ``data.validation`` if there is one, else on ``data.evaluation``.
    ``time_limit``, in seconds, ends the search after the candidate under way. ``workers`` None makes all
    candidates here; ``ray`` on the Ray cluster of this machine, ``ray://HOST:10001`` on another. The other
    arguments are those of ``compare``.

    ``out`` is the run folder: tune.json, ``programs``, ``artefacts`` and ``shipping``. ``ship_run`` and
    ``zeropoint report`` read it as they do a comparison's. Models that it holds are not
    measured again: the same call goes on after an interruption, to the same result, and another budget uses
    what is there.

    Raises InputError for a budget that nothing measured keeps, with the nearest; for formats that no engine
    runs; a metric without targets; or a folder with another search.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> budget = zp.Budget(min_sqnr=25, minimize="size")
    >>> frontier = zp.tune(program, data, budget, out="smallest", engines=["onnxruntime"])
    >>> smallest = frontier[frontier.chosen]
    >>> smallest.sqnr_db >= 25, smallest.engine
    (True, 'onnxruntime')
    """
    check_solver()
    check_workers(workers)
    check_program(program)
    check_value("threads", threads, Count)
    check_value("batch_size", batch_size, Count)
    check_value("time_limit", time_limit, Positive | None)
    if program.method != "fp32":
        raise InputError(f"the Program is {program.method} already; tune the float one")
    check_loaders(data)
    options = options or Options()
    names = list(dict.fromkeys(installed() if engines is None else engines))
    chosen_formats, methods = checked(formats), list(dict.fromkeys(methods))
    check_methods(methods, data)
    names = able(names, chosen_formats, methods[0], options)
    chosen_task = tasks.made(task, metrics, higher_is_better, postprocess)
    flat = flat_loaders(data, program.signature)
    judged, read = data.evaluation, flat.evaluation
    if data.validation is not None and flat.validation is not None:
        judged, read = data.validation, flat.validation
    fitting = Fitting(read, program)
    probe = check_task(program, fitting, chosen_task, judged)
    measure = first_measure(program, fitting, chosen_task, probe)
    check_metric(budget, measure)
    warn_of(options.processor, "the search")
    folder = make_folder(out)
    sized = at_batch(program, batch_size)
    setting = Setting(sized, flat, fitting, judged, chosen_task, folder, options, threads, loss, say)
    frontier = begin(setting, budget, chosen_formats, probe, measure, command)
    with empty_removed(folder), opened(workers, setting, _fingerprint) as does:
        samples.save(samples.of_data(sized, replace(flat, evaluation=fitting), judged), folder)
        record = Record(setting, frontier, budget, time_limit, does)
        with interruption_tells(lambda: _saved(record.frontier, folder)):
            Search(record, budget).run(names, methods)
        found = record.frontier
        if found.chosen is None and not budget.frontier:
            raise InputError(nothing_keeps(found, budget))
    return found


def _saved(frontier: Frontier, folder: Path) -> str:
    number = len(frontier.points)
    return f"{number} model{'s are' if number != 1 else ' is'} saved in {folder}"


def _fingerprint(setting: Setting) -> str:
    return fingerprint(setting.program, setting.data)


@dataclass
class Search:
    """What a search asks for, by what is on its record."""

    record: Record
    budget: Budget

    def run(self, engines: Sequence[str], methods: Sequence[str]) -> None:
        """Measures, proposes, and chooses."""
        engine = self._fastest(engines, methods[0])
        self.record.update(engine=engine)
        uniform = self._uniform(engine, methods[0])
        tables = {name: self.record.frontier.tables[point.name] for name, point in uniform.items()}
        costs = of_tables(tables, uniform, self.record.setting.program.module)
        if self.budget.frontier:
            self._curve(engine, methods[0], costs)
        elif self.budget.keeps_accuracy and self.budget.objective != LOSS:
            self._close_in(engine, methods[0], costs)
        else:
            self._least_loss(engine, methods[0], costs)
        self._better(methods[1:])
        self._finish()

    # The parts of a run.

    def _fastest(self, engines: Sequence[str], method: str) -> str:
        """The engine whose uniform W8A8 model costs least; all are timed one beside the other."""
        least: dict[str, float] = {}
        objective = SIZE if self.budget.objective == SIZE or set(self.budget.limits) == {SIZE} else LATENCY
        visit, uniform = self.record.visit, Candidate.uniform
        all_floats = visit([Asked(uniform(name, FLOAT, method)) for name in engines])
        points = visit([Asked(uniform(one.engine, INT8, method), one) for one in all_floats])
        for name, floats, point in zip(engines, all_floats, points, strict=True):
            if point.error is None and floats.error is None:
                least[name] = point.searched(objective)
            else:
                self.record.setting.say(f"{name} is left out: {floats.error or point.error}")
        if not least:
            raise InputError("no engine can run the model in float and in W8A8; see zeropoint compare")
        return min(least, key=least.__getitem__)

    def _uniform(self, engine: str, method: str) -> dict[str, Point]:
        """The uniform model of each format that the engine can run."""
        visit, uniform = self.record.visit, Candidate.uniform
        [floats] = visit([Asked(uniform(engine, FLOAT, method))])
        found, formats = {FLOAT: floats}, self._useful(engine, method)
        points = visit([Asked(uniform(engine, name, method), floats) for name in formats])
        for name, point in zip(formats, points, strict=True):
            if point.error is None:
                found[name] = point
            else:
                self.record.setting.say(f"{name} is left out: {point.error}")
        return found

    def _useful(self, engine: str, method: str) -> list[str]:
        """The formats that the budget is about. Those that save size alone are made only where size counts.

        Engines hold weights of fewer bits as 8 while they compute, and compute in float unless what enters is
        of 8 bits, too. Formats more accurate than W8A8 are made only where W8A8 is not accurate enough.
        """
        formats, budget = self.record.frontier.formats, self.budget
        if budget.frontier or SIZE in {*budget.limits, budget.objective}:
            return list(formats)
        wide = [name for name in formats if find(name).weight_bits >= find(INT8).weight_bits]
        [floats] = self.record.visit([Asked(Candidate.uniform(engine, FLOAT, method))])
        [uniform] = self.record.visit([Asked(Candidate.uniform(engine, INT8, method), floats)])
        is_enough = budget.objective == LATENCY and uniform.error is None and self._keeps_accuracy(uniform)
        useful = [FLOAT, INT8] if is_enough else wide
        if left := [name for name in formats if name not in useful]:
            self.record.setting.say(f"not made: {', '.join(left)}, which can make nothing faster here")
        return useful

    def _probe(self, engine: str, method: str, costs: Costs) -> None:
        """Networks of random formats."""
        generator = random.Random(self.record.setting.options.seed)
        probes = []
        for _ in range(PROBES):
            columns = [
                generator.choice([one for one in range(len(costs.formats)) if row[one]])
                for row in costs.allowed
            ]
            probes.append(costs.named(columns))
        self._propose(engine, method, costs, probes)

    def _close_in(self, engine: str, method: str, start: Costs) -> None:
        """Halves the range of noise, in dB, between what keeps the accuracy and what does not."""
        low, high = self._bracket(start)
        tight, probed = self.budget.limits, False
        for _ in range(ROUNDS):
            if high < CLOSE * low or self.record.is_over():
                break
            costs, target = refitted(start, self.record.visited), math.sqrt(low * high)
            formats = solve(costs, self.budget.objective, {**tight, LOSS: target})
            if formats is None or not self._gains(costs, formats):
                # More noise may leave room for the other limits, or for a gain.
                low = target
                continue
            if not probed:
                self._probe(engine, method, start)
                probed = True
                continue
            [point] = self._propose(engine, method, costs, [formats])
            tight = _tightened(tight, self.budget, point)
            if point.error is None and self._keeps_accuracy(point):
                low = target
            else:
                high = target

    def _least_loss(self, engine: str, method: str, start: Costs) -> None:
        """Proposes the least noise within the limits, until what it proposes is what was measured last."""
        tight, last = self.budget.limits, None
        self._probe(engine, method, start)
        for _ in range(ROUNDS):
            costs = refitted(start, self.record.visited)
            formats = solve(costs, LOSS, tight)
            if formats is None or formats == last or self.record.is_over():
                break
            last = formats
            [point] = self._propose(engine, method, costs, [formats])
            tight = _tightened(tight, self.budget, point)

    def _curve(self, engine: str, method: str, start: Costs) -> None:
        """Points at equal steps, in dB, from the least noise to the most: the fastest, and the smallest."""
        self._probe(engine, method, start)
        objectives = [self.budget.minimize] if self.budget.minimize else [LATENCY, SIZE]
        for objective in objectives:
            costs = refitted(start, self.record.visited)
            least, most = _least_noise(costs), _most_noise(costs)
            noises = [least * (most / least) ** (step / CURVE) for step in range(1, CURVE + 1)]
            solved = [solve(costs, objective, {**self.budget.limits, LOSS: noise}) for noise in noises]
            self._propose(engine, method, costs, [one for one in solved if one], may_stop=True)

    def _better(self, methods: Sequence[str]) -> None:
        """Makes the best two again by methods that take longer: what was chosen, and what nearly was."""
        objective = self.budget.objective
        for method in methods:
            kept = choose(self.record.visited, self.budget, self.record.frontier.limit)
            near = [
                point
                for point in nearest(self.record.visited, self.budget, self.record.frontier.limit)
                if kept is None or point.cost(objective) < GAIN[objective] * kept.cost(objective)
            ]
            best = [one for one in [*near[:1], *([kept] if kept else [])] if one.uniform != FLOAT]
            again = [
                Asked(Candidate(one.engine, method, one.formats), self.record.beside(one.engine))
                for one in best
            ]
            self.record.visit(again, may_stop=True)

    def _finish(self) -> None:
        """Times the frontier together, and chooses."""
        limit = self.record.frontier.limit
        points = [point.as_searched for point in self.record.frontier.points]
        self.record.update(points=tuple(points))
        shown = {point.name: point for point in self.record.frontier.best}
        if chosen := choose(points, self.budget, limit):
            shown[chosen.name] = chosen
        times = dict[str, Latency]()
        if not self._is_pair(shown):
            self.record.setting.say(f"timing the {len(shown)} best, interleaved")
            times = candidates.timed(self.record.setting, shown)
        points = [replace(one, latency_ms=times.get(one.name, one.latency_ms)) for one in points]
        able = [point for point in points if point.name in shown]
        chosen = None if self.budget.frontier else choose(able, self.budget, limit)
        self.record.update(points=tuple(points), chosen=chosen.name if chosen else None)

    # What these need.

    def _is_pair(self, shown: Mapping[str, Point]) -> bool:
        """Whether these are two points at most, one of which was timed beside the other."""
        engines = {point.engine for point in shown.values()}
        if len(engines) > 1 or len(shown) > 2:
            return False
        return len(shown) == 1 or any(one.name in shown for one in map(self.record.beside, engines) if one)

    def _propose(
        self,
        engine: str,
        method: str,
        costs: Costs,
        proposals: Sequence[dict[str, str]],
        *,
        may_stop: bool = False,
    ) -> list[Point]:
        """The points of proposed formats, with what the costs foretell of them."""
        asked = []
        for formats in proposals:
            noise = max(costs.predicted(formats, LOSS), 1e-12)
            predicted = 1e3 * costs.predicted(formats, LATENCY), -10 * math.log10(noise)
            asked.append(Asked(Candidate(engine, method, formats), self.record.beside(engine), predicted))
        return self.record.visit(asked, may_stop=may_stop)

    def _keeps_accuracy(self, point: Point) -> bool:
        limit = self.record.frontier.limit
        missed = misses(point, replace(self.budget, max_size=None, max_latency=None), limit)
        return not missed and not is_lucky(point, self.record.visited, limit)

    def _bracket(self, costs: Costs) -> tuple[float, float]:
        """Noise that keeps the accuracy, as far as is known, and noise that does not."""
        if self.budget.min_sqnr is not None:
            asked = 10 ** (-self.budget.min_sqnr / 10)
            if self.record.frontier.limit is None:
                return asked / CLOSE**2, asked * CLOSE**2
        fitted = refitted(costs, self.record.visited)
        low, high = _least_noise(fitted), _most_noise(fitted) * CLOSE
        for point in self.record.visited:
            if point.error is None and point.noise and self._keeps_accuracy(point):
                low = max(low, point.noise)
        over = [p.noise for p in self.record.visited if p.error is None and p.noise > low]
        return low, min([high, *over]) if over else max(high, low)

    def _gains(self, costs: Costs, formats: dict[str, str]) -> bool:
        """Whether formats promise less than the least cost of what keeps the budget so far."""
        kept = choose(self.record.visited, self.budget, self.record.frontier.limit)
        objective = self.budget.objective
        if kept is None:
            return True
        return costs.predicted(formats, objective) < GAIN[objective] * kept.searched(objective)


def _tightened(tight: dict[str, float], budget: Budget, point: Point) -> dict[str, float]:
    """The limits for the next proposal: less than the last ones where a point was over the budget."""
    over = {
        name: most / point.searched(name)
        for name, most in budget.limits.items()
        if point.error is None and point.searched(name) > most
    }
    return {name: most * min(over.get(name, 1.0), 1.0) for name, most in tight.items()}


def _most_noise(costs: Costs) -> float:
    """Of all choices, with each layer at its most."""
    return max(float(costs.noise.max(1).sum()), 1e-9)


def _least_noise(costs: Costs) -> float:
    """What a single layer adds at its least, where the rest is float."""
    return max(float(costs.noise[costs.noise > 0].min(initial=1.0)), 1e-9)
