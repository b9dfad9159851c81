"""The start of a comparison: what must hold before anything is measured, and what an earlier run left."""

import dataclasses
import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeropoint.data import Loaders
from zeropoint.data.batches import Loader, example_inputs, items_of
from zeropoint.engines import ON_REQUEST, installed, missing, refusal, target
from zeropoint.engines import find as engine
from zeropoint.errors import InputError, interruption_tells
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.graph.sizes import check_inputs
from zeropoint.measure import layers, pictures
from zeropoint.measure.evaluate import Evaluation
from zeropoint.measure.evaluate import check as check_task
from zeropoint.measure.fingerprint import fingerprint
from zeropoint.measure.results import FILE, Results
from zeropoint.measure.samples import SHIPPING
from zeropoint.methods import find, named
from zeropoint.methods.trainable import check_training
from zeropoint.models.userfile import identity
from zeropoint.report.files import load as load_results
from zeropoint.targets import machine
from zeropoint.targets.options import Options
from zeropoint.tasks import Task
from zeropoint.training import randomness
from zeropoint.training.task import OwnLoss
from zeropoint.tuning.frontier import FILE as SEARCH

PROGRAMS, ARTEFACTS = "programs", "artefacts"  # folders in the run folder
RESULTS = (FILE, "results.csv", "results.md")  # files in it
BITS = ("weight_bits", "activation_bits")  # options that each row has of its own
SAME = ("model", "data", "task", "metrics", "threads", "batch_size", "options", "machine", "fingerprint")


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, for the cache of references
class Run:
    """What stays the same from row to row of one comparison.

    ``batches``: the evaluation data as the user gave it. ``task`` is None if the data tells it.
    ``loss`` is that of training, if it is the user's own.
    """

    program: Program
    data: Loaders
    batches: Loader
    task: Task | None
    folder: Path
    options: Options
    threads: int
    say: Callable[[str], None]
    loss: OwnLoss | None = None


def check_methods(methods: Sequence[str], engines: Sequence[str] | None, variants: Sequence[Options]) -> None:
    """Raises InputError for an unknown method or engine, or if no engine can run what is to be quantized.

    It needs neither model nor data. ``engines`` None: those installed.
    """
    engines = installed() if engines is None else engines
    if not methods or not engines:
        raise InputError("there is nothing to compare; name at least one method and one engine")
    quantizing = [method for method in methods if find(method).quantizes]
    for name in engines:
        engine(name)
    refused = {
        named(method, options): [
            refusal(target(name, options.processor), method, options) for name in engines
        ]
        for method in quantizing
        for options in variants
    }
    if refused and all(reason for reasons in refused.values() for reason in reasons):
        row, (reason, *_) = next(iter(refused.items()))
        raise InputError(f"{' and '.join(engines)} cannot run {row}: {reason}")


def check(
    program: Program,
    data: Loaders,
    methods: list[str],
    options: Options,
    task: Task | None,
    batches: Loader,
    loss: OwnLoss | None,
) -> Evaluation:
    """Raises InputError for what would fail only later, before anything is measured or written.

    Gives the Evaluation of the float Program on the first batches.
    """
    if program.method != "fp32":
        raise InputError(f"the Program is {program.method} already; compare the float one")
    needs = [find(method) for method in methods]
    trains = any(need.needs("train") for need in needs)
    if trains and data.train is None:
        raise InputError(
            f"qat needs training data, and {data.name} has none; leave qat out or add a train loader"
        )
    options.check_patterns(fx.module_names(program.module))
    example_inputs(data.evaluation)
    try:
        calibration = example_inputs(data.calibration)
    except InputError as error:
        raise InputError(f"the calibration set is empty or unreadable: {error}") from error
    check_inputs(program.module, calibration, "calibration batch 1")
    if trains and data.train is not None:
        check_training(program, program, data.train, data.validation, loss)
    return check_task(program, data.evaluation, task, batches)


def begin(run: Run, command: str, probe: Evaluation, max_drop: str, *, trains: bool) -> Results:
    """The results that the folder holds of the same comparison, or empty ones.

    ``probe`` tells the task and its metrics.
    """
    options = {key: list(v) if isinstance(v, tuple) else v for key, v in run.options.as_dict().items()}
    options = {key: v for key, v in options.items() if key not in BITS}
    fresh = Results(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        model=run.program.origin or "a model",
        data=run.data.name,
        threads=run.threads,
        batch_size=items_of(run.program.example_inputs),
        images=0,
        machine=machine.describe(),
        options=options,
        missing={name: hint for name, hint in missing().items() if name not in ON_REQUEST},
        fingerprint=fingerprint(run.program, run.data),
        task=probe.task,
        measures=probe.measures,
        fidelity=probe.agreement,
        max_drop=max_drop,
        own=_own(run, trains),
    )
    if (run.folder / SEARCH).exists():
        raise InputError(f"{run.folder} holds a search of zeropoint tune; give another --out")
    if not (run.folder / RESULTS[0]).exists():
        _clear(run.folder)  # of a comparison whose results were deleted
        return fresh
    earlier = load_results(run.folder)
    if changed := next((name for name in SAME if getattr(earlier, name) != getattr(fresh, name)), None):
        what = {"fingerprint": "weights or other data"}.get(changed, changed.replace("_", " "))
        if changed == "options":
            pairs = [(key, earlier.options.get(key), value) for key, value in fresh.options.items()]
            what += "".join(f", {key} {old} and not {new}" for key, old, new in pairs if old != new)
        raise InputError(
            f"{run.folder} holds a comparison with other {what}; give another --out, or delete it"
        )
    for name, code in fresh.own.items():
        if (then := earlier.own.get(name, code)) != code:
            raise InputError(
                f"{run.folder} holds a comparison with another {name}: {then or 'none'} and not"
                f" {code or 'none'}; give another --out, or delete it"
            )
    run.say(f"continuing the run in {run.folder}; finished rows: {len(earlier.rows)}")
    kept: dict[str, Any] = {name: getattr(earlier, name) for name in ("rows", "images", "created")}
    return dataclasses.replace(fresh, **kept, own=earlier.own | fresh.own)


@contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """If the comparison in the block stops, the message of Ctrl-C says what of it ``folder`` holds.

    Where that is nothing, the folder is left empty, or removed.
    """
    try:
        with interruption_tells(lambda: _saved(folder)):
            yield
    except BaseException:
        if not _saved(folder) and not any(folder.rglob("*.checkpoint")):
            for name in RESULTS:
                (folder / name).unlink(missing_ok=True)
            _clear(folder)
            with suppress(OSError):  # of a folder with other files in it
                folder.rmdir()
        raise


def _saved(folder: Path) -> str:
    """In words, the rows and quantized Programs that a folder holds; empty for none."""
    rows = sum(row.error is None for row in load_results(folder).rows)
    programs = len(list((folder / PROGRAMS).glob("*.pt2")))
    kept = [f"{n} {noun}{'s' * (n != 1)}" for n, noun in ((rows, "row"), (programs, "quantized model")) if n]
    return f"{' and '.join(kept)} {'is' if rows + programs == 1 else 'are'} saved in {folder}" if kept else ""


def _clear(folder: Path) -> None:
    """Removes what a comparison leaves beside its results."""
    for part in (PROGRAMS, ARTEFACTS, SHIPPING, layers.FOLDER, pictures.FOLDER):
        shutil.rmtree(folder / part, ignore_errors=True)


def _own(run: Run, trains: bool) -> dict[str, str]:
    """What tells the user's functions from others; loss and training data only where something is trained."""
    task = run.task
    found = {"postprocess": identity(task.postprocess if task else None)}
    found |= {f"metric {one.name}": identity(one.own) for one in (task.metrics if task else ()) if one.own}
    if trains and run.data.train is not None:
        data = randomness.fingerprint(run.options.training.seed, run.data.train)
        found |= {"loss": identity(run.loss), "training data": data[:12]}
    return found
