"""Compare: every method on every engine, measured on this machine, resumable row by row."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zeropoint import tasks
from zeropoint.comparison.runners import reference, runner, timed
from zeropoint.comparison.start import ARTEFACTS, PROGRAMS, Run, begin, check, check_methods, unfinished
from zeropoint.data import Loaders
from zeropoint.data.batches import example_inputs
from zeropoint.data.loaders import check_loaders
from zeropoint.engines import Runner, installed, target, unsupported
from zeropoint.errors import Count, InputError, check_value, first_line
from zeropoint.files import make_folder
from zeropoint.graph.program import Program, at_batch, check_program, load, parameter_bytes
from zeropoint.graph.signature import flat_loaders
from zeropoint.measure import layers, parity, pictures, samples
from zeropoint.measure.changed import ChangedSample
from zeropoint.measure.evaluate import Evaluation, Fitting, evaluate_all
from zeropoint.measure.fidelity import Fidelity
from zeropoint.measure.fingerprint import fingerprint
from zeropoint.measure.integers import integers
from zeropoint.measure.kept import MaxDrop
from zeropoint.measure.layerwise import layerwise
from zeropoint.measure.results import EAGER, Results, Row
from zeropoint.measure.size import on_disk
from zeropoint.measure.worst import Worst
from zeropoint.methods import find, label, named
from zeropoint.quantization import quantize
from zeropoint.report.files import save as save_results
from zeropoint.targets import machine
from zeropoint.targets.options import Options
from zeropoint.targets.processor import warn_of
from zeropoint.tasks import Task
from zeropoint.training.checkpoint import beside
from zeropoint.training.task import OwnLoss
from zeropoint.tuning.choose import by_placement
from zeropoint.tuning.workers import Does, Work, check_workers, opened

DEFAULT_METHODS = ("fp32", "bf16", "dynamic", "static")
LOOKED_AT = 32  # items that layers are looked at on


def compare(
    program: Program,
    data: Loaders,
    *,
    out: str | os.PathLike[str],
    methods: Sequence[str] = DEFAULT_METHODS,
    engines: Sequence[str] | None = None,
    bits: Sequence[str] = (),
    options: Options | None = None,
    threads: int = 1,
    batch_size: int = 1,
    task: str | Task | None = None,
    metrics: Any = (),
    higher_is_better: bool | None = None,
    postprocess: Callable[[Any], Any] | None = None,
    max_drop: str | float | None = None,
    loss: OwnLoss | None = None,
    workers: str | None = None,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Results:
    """Measures every method × bits × engine on this machine and gives the Results; they are in ``out``, too.

    ``program`` is float. ``data`` holds what the methods need: calibration, evaluation, and for ``qat``
    train. ``out`` is the run folder, with results.json, results.csv, results.md, ``programs``, ``artefacts``,
    ``layers`` and ``shipping``. ``bits`` are as in W4A8; if empty, those of ``options``. ``threads`` and
    ``batch_size`` are those of the latency; accuracy is evaluated on all cores. ``engines`` None: those
    installed. Rows that ``out`` already holds from the same model, data and options are kept; quantized
    Programs in it are used again, and unfinished ones are continued. At the end all rows are timed together.
    ``workers`` None computes all rows here; ``ray`` on the Ray cluster of this machine, ``ray://HOST:10001``
    on another. They are timed here.
    ``say`` is called with a line of text at the start of each stage.

    ``task``, ``metrics``, ``higher_is_better`` and ``postprocess`` are those of ``evaluate``. The first
    metric decides which rows keep float32's accuracy: those that are worse by at most ``max_drop``, in the
    metric's unit, or in percent of float32's value as in "2%"; by default one point of a metric in percent,
    and 1% of any other. ``loss`` is that of ``quantize``, for training.

    A row that an engine cannot run has an ``error`` and does not stop the comparison. Raises InputError for
    an unknown method or engine, data that does not fit, or a folder with another run.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> results = zp.compare(program, data, out="run", methods=["fp32", "static"], engines=["openvino"])
    >>> [row.name for row in results.rows]
    ['fp32 on openvino', 'static on openvino']
    """
    check_program(program)
    check_workers(workers)
    check_value("threads", threads, Count)
    check_value("batch_size", batch_size, Count)
    check_loaders(data)
    methods = list(dict.fromkeys(methods))
    engines = list(dict.fromkeys(installed() if engines is None else engines))
    options = options or Options()
    variants = [options.at(of) for of in dict.fromkeys(bits)] or [options]
    chosen, batches = tasks.made(task, metrics, higher_is_better, postprocess), data.evaluation
    limit = MaxDrop.of(max_drop)
    data = flat_loaders(data, program.signature)
    data = dataclasses.replace(data, evaluation=Fitting(data.evaluation, program))
    check_methods(methods, engines, variants)
    probe = check(program, data, methods, options, chosen, batches, loss)
    quantizes = any(find(name).quantizes for name in methods)
    warn_of(options.processor if quantizes else "", "the comparison")
    if pictures.pillow_is_missing():
        say("no pictures of samples: Pillow is not installed; run: pip install 'zeropoint[report]'")
    folder = make_folder(out)
    run = Run(at_batch(program, batch_size), data, batches, chosen, folder, options, threads, say, loss)
    trains = any(find(name).needs("train") for name in methods)
    results = begin(run, command, probe, str(limit or ""), trains=trains)
    # From here on the folder is this comparison's, and no other may use its artefacts.
    rules = [target(name, options.processor) for name in engines if quantizes]
    results = dataclasses.replace(results, remarks=tuple(line for one in rules if (line := one.remark())))
    save_results(results, folder)
    with unfinished(folder), opened(workers, run, _fingerprint) as does:
        samples.save(samples.of_data(run.program, data, batches), folder)
        results = timed(run, _all_rows(run, does, results, methods, engines, variants))
        save_results(results, folder)
    return results


def _fingerprint(run: Run) -> str:
    return fingerprint(run.program, run.data)


@dataclass(frozen=True)
class Group:
    """A method with its bits on engines that share a Program."""

    method: str
    options: Options
    engines: Sequence[str]


def _all_rows(
    run: Run, does: Does, results: Results, methods: list[str], engines: list[str], variants: list[Options]
) -> Results:
    """The results with every row that they lack."""
    groups = [
        Group(method, variant, group)
        for method in methods
        for variant in {find(method).bits(variant): variant for variant in variants}.values()
        for group in by_placement(run.program, method, engines, variant)
    ]
    before = torch.get_num_threads()
    try:
        # Float32 first: what it is compiled to is what all others are compared with.
        for is_float in (True, False):
            results = _measured(run, does, results, [g for g in groups if (g.method == "fp32") is is_float])
    finally:
        torch.set_num_threads(before)
    return results


def _measured(run: Run, does: Does, results: Results, groups: Sequence[Group]) -> Results:
    """The results with the rows of the groups that they lack, in the order of the groups."""
    works, skipped = [], dict(results.skipped)
    for group in groups:
        method, options = group.method, group.options
        reasons = {name: unsupported(name, method, options) for name in group.engines}
        what = named(method, options).removesuffix(" W8A8")
        skipped |= {f"{what} on {name}": reason for name, reason in reasons.items() if reason}
        done = {row.engine for row in results.rows if row.error is None and _is_of(row, method, options)}
        able = [name for name in group.engines if not reasons[name]]
        if names := [name for name in able if name not in done]:
            call = functools.partial(_rows, method=method, options=options, names=names, target=able[0])
            works.append(Work(f"{what} on {', '.join(names)}", call, _read(run, method)))
    results, new = dataclasses.replace(results, skipped=skipped), list[Row]()
    for row, images in does(works):
        kept = [old for old in results.rows if old.name != row.name and old not in new]
        new = sorted([*new, row], key=lambda one: _place(one, groups))
        results = dataclasses.replace(results, rows=(*kept, *new), images=images or results.images)
        save_results(results, run.folder)
    return results


def _place(row: Row, groups: Sequence[Group]) -> int:
    """The number of the group that a row is of."""
    numbered = enumerate(groups)
    here = (n for n, g in numbered if row.engine in g.engines and _is_of(row, g.method, g.options))
    return next(here, len(groups))


def _read(run: Run, method: str) -> tuple[str, ...]:
    """The files in the run folder that rows of a method read: float32's, and what is half done."""
    names = ("fp32", method)
    files = [path for part in (PROGRAMS, ARTEFACTS) for path in sorted((run.folder / part).glob("*.*"))]
    return tuple(str(one.relative_to(run.folder)) for one in files if one.name.startswith(names))


def _is_of(row: Row, method: str, options: Options) -> bool:
    return row.method == method and find(method).bits(options) in ("", row.bits)


def _rows(
    run: Run, method: str, options: Options, names: list[str], target: str = ""
) -> Iterator[tuple[Row, int]]:
    """A row for each engine, with the number of images evaluated; one pass over the data serves all."""
    program, what = _quantized(run, method, options, target), named(method, options)
    eager = reference(run, EAGER, machine.cores())
    runners: dict[str, Runner] = {}
    for name in names:
        run.say(f"{what} on {name}: compiling")
        try:
            if program is run.program:
                runners[name] = reference(run, name, machine.cores())
            else:
                runners[name] = runner(run, program, name, machine.cores())
            runners[name].flat(*run.program.example_inputs)
        except Exception as error:  # an engine's failure is a row of the table, not the end of the run
            runners.pop(name, None)
            yield _failed(program, name, error), 0
    if not runners:
        return
    run.say(f"{what} on {', '.join(runners)}: evaluating")
    quantized = find(method).quantizes
    try:
        evaluations = evaluate_all(
            runners | ({"simulation": program} if quantized else {}),
            run.data.evaluation,
            float32=eager,
            simulation=program if quantized else None,
            task=run.task,
            own=run.batches,
            keep_worst=method != "fp32",
            description=f"{what}: evaluating",
        )
    except InputError:
        raise
    except Exception as error:
        yield from ((_failed(program, name, error), 0) for name in runners)
        return
    for name, compiled in runners.items():
        try:
            row = _row(run, program, compiled, evaluations[name], evaluations.get("simulation"))
        except Exception as error:
            row = _failed(program, name, error)
        yield row, evaluations[name].accuracy.images


def _quantized(run: Run, method: str, options: Options, target: str) -> Program:
    """The Program of a method, taken from the run folder if an interrupted run left it."""
    if method == "fp32":
        return run.program
    quantizes = find(method).quantizes
    path = (
        run.folder / PROGRAMS / f"{'-'.join([method, options.bits, target] if quantizes else [method])}.pt2"
    )
    if path.exists():
        return load(path)
    what = named(method, options)
    run.say(f"{what} for {target}: quantizing" if quantizes else f"{what}: converting")
    data, kept = run.data, beside(path)
    torch.set_num_threads(machine.cores())  # those of the row timed last would give other last bits
    program = quantize(
        run.program,
        method,
        calibration=data.calibration,
        train=data.train,
        validation=data.validation,
        target=target,
        options=options,
        checkpoint=kept,
        loss=run.loss,
    )
    program.save(path)
    kept.unlink(missing_ok=True)
    if quantizes:
        try:
            layers.save(layers.describe(program, layerwise(program, data.evaluation, LOOKED_AT)), run.folder)
        except Exception as error:  # the report lacks a picture, but the row can be measured
            run.say(f"{named(method, options)}: cannot look at its layers: {first_line(error)}")
    return program


def _by_name(program: Program, fidelity: Fidelity | None) -> dict[str, float | None]:
    """The SQNR of each of several outputs."""
    every = fidelity.outputs_db if fidelity else ()
    names = program.signature.output_names
    return dict(zip(names, every, strict=True)) if len(every) > 1 else {}


def _row(
    run: Run, program: Program, compiled: Runner, evaluation: Evaluation, simulation: Evaluation | None
) -> Row:
    name, worst = compiled.engine, evaluation.worst or Worst()
    fidelity, judged = evaluation.fidelity, None
    if simulation is not None and simulation.fidelity and fidelity and evaluation.parity:
        judged = parity.judge(fidelity, simulation.fidelity, evaluation.parity)
        if not judged.ok:
            run.say(f"{label(program)} on {name}: finding where it differs from the simulation")
            judged = parity.explained(judged, program, name, example_inputs(run.data.evaluation))
    size = on_disk(compiled.artefact)
    done = integers(program, compiled) if find(program.method).quantizes else None
    row = Row(
        method=program.method,
        engine=name,
        weight_bits=program.weight_bits,
        activation_bits=program.activation_bits,
        top1=evaluation.accuracy.top1,
        loss=evaluation.accuracy.loss,
        agreement=fidelity.agreement if fidelity else None,
        sqnr_db=fidelity.sqnr_db if fidelity else None,
        outputs_db=_by_name(program, fidelity),
        size_bytes=size,
        shrink=on_disk(reference(run, EAGER, machine.cores()).artefact) / size,
        parameter_bytes=parameter_bytes(program),
        quantize_seconds=program.quantize_seconds,
        artefact=str(compiled.artefact.relative_to(run.folder)),
        parity=judged,
        int8_share=done.share if done else None,
        fallbacks=done.fallbacks if done else (),
        values=evaluation.values,
        change=evaluation.change,
        changed_classes=worst.classes,
    )
    return dataclasses.replace(row, changed_samples=_changed_samples(run, program, row, worst))


def _changed_samples(run: Run, program: Program, row: Row, worst: Worst) -> tuple[ChangedSample, ...]:
    """The samples that a row changed most, with pictures and sounds in the run folder."""
    made, found = pictures.RowMedia(run.folder, row.name, program, run.data), []
    for moved in worst.samples:
        try:
            found.append(moved.told(pictures.media(moved, made)))
        except Exception as error:  # the report lacks a picture, but the row was measured
            run.say(f"{row.name}: cannot draw sample {moved.index}: {first_line(error)}")
            found.append(moved.told())
    return tuple(found)


def _failed(program: Program, name: str, error: Exception) -> Row:
    line = first_line(error)[:300]
    return Row(program.method, name, program.weight_bits, program.activation_bits, error=line)
