"""The start of a search: what must hold before anything is measured, and what an earlier run left."""

import dataclasses
import datetime
from collections.abc import Sequence

from zeropoint import engines as all_engines
from zeropoint.data import Loaders
from zeropoint.data.batches import Loader, items_of, limit
from zeropoint.engines import unsupported
from zeropoint.errors import InputError
from zeropoint.graph.program import Program
from zeropoint.measure.evaluate import Evaluation, evaluate_all
from zeropoint.measure.fingerprint import fingerprint
from zeropoint.measure.results import FILE as RESULTS
from zeropoint.methods import find as find_method
from zeropoint.targets import machine
from zeropoint.targets.options import Options
from zeropoint.tasks import Measure, Task
from zeropoint.tuning.budget import Budget
from zeropoint.tuning.candidates import Setting
from zeropoint.tuning.formats import FLOAT, Candidate
from zeropoint.tuning.frontier import FILE, Frontier, limit_of, load

VERSIONS = "versions"  # in the description of a machine
SAME = ("model", "data", "threads", "batch_size", "options", "machine", "fingerprint", "formats")


def able(engines: Sequence[str], formats: Sequence[str], method: str, options: Options) -> list[str]:
    """The engines that run every format by this method; raises InputError if there is none."""
    reasons: dict[str, str] = {}
    for name in engines:
        all_engines.find(name)
        for format in formats:
            asked = Candidate.uniform(name, format, method).options(options)
            if format != FLOAT and (reason := unsupported(name, method, asked)):
                reasons.setdefault(name, f"{name} cannot run {format}: {reason}")
    if not engines:
        raise InputError("there is no engine to search; name at least one")
    if len(reasons) == len(set(engines)):
        raise InputError(next(iter(reasons.values())))
    return [name for name in engines if name not in reasons]


def check_methods(methods: Sequence[str], data: Loaders) -> None:
    """Raises InputError for methods that a search cannot use, or that need data that is missing."""
    for name in methods:
        method = find_method(name)
        if not ((method.makes("activations") and method.needs("calibration")) or method.needs("train")):
            raise InputError(f"tune makes models by static, static-best or qat, not by {name}")
        if method.needs("train") and data.train is None:
            raise InputError(f"{name} needs training data, and {data.name} has none; leave it out")
    if not methods or find_method(methods[0]).needs("train"):
        raise InputError("the first of the methods makes every candidate; begin with static")


def first_measure(program: Program, data: Loader, task: Task | None, probe: Evaluation) -> Measure | None:
    """What a drop is of: the first metric, else agreement with float32; None if the data tells neither."""
    if probe.measures:
        return probe.measures[0]
    fidelity = evaluate_all({"": program}, limit(data, 1), float32=program, task=task)[""].fidelity
    return probe.agreement if fidelity is not None and fidelity.agreement is not None else None


def check_metric(budget: Budget, measure: Measure | None) -> None:
    """Raises InputError for a limit of a drop where there is nothing that could drop."""
    if budget.drop is not None and measure is None:
        raise InputError(
            "--max-drop needs a metric, and the data has no targets; give --min-sqnr, or data with targets"
        )


def begin(
    setting: Setting,
    budget: Budget,
    formats: tuple[str, ...],
    probe: Evaluation,
    measure: Measure | None,
    command: str,
) -> Frontier:
    """The Frontier that the folder holds of the same model, data and options, or an empty one."""
    program = setting.program
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in setting.options.as_dict().items()}
    value = probe.values.get(measure.name) if measure is not None else None
    fresh = Frontier(
        model=program.origin or "a model",
        data=setting.data.name,
        budget=str(budget),
        threads=setting.threads,
        batch_size=items_of(program.example_inputs),
        machine=machine.describe(),
        options=options,
        fingerprint=fingerprint(program, setting.data),
        formats=formats,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        task=probe.task,
        max_drop=str(budget.drop or ""),
        measure=measure,
        fidelity=probe.agreement,
        float_value=value,
        limit=limit_of(budget.drop, measure, value),
    )
    if not (setting.folder / FILE).exists():
        if (setting.folder / RESULTS).exists():
            raise InputError(f"{setting.folder} holds a comparison; give another --out")
        return fresh
    earlier = load(setting.folder)
    for name in SAME:
        if getattr(earlier, name) != getattr(fresh, name):
            what = {"fingerprint": "weights or other data"}.get(name, name.replace("_", " "))
            if name == "machine" and earlier.machine | {VERSIONS: 0} == fresh.machine | {VERSIONS: 0}:
                what = "versions of zeropoint or the engines"
            raise InputError(f"{setting.folder} holds a search with other {what}; give another --out")
    setting.say(f"continuing in {setting.folder}; measured models: {len(earlier.points)}")
    return dataclasses.replace(fresh, points=earlier.points, tables=earlier.tables)
