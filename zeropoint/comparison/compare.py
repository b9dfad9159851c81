"""Compare: every method on every engine, measured on this machine, resumable row by row."""

import dataclasses
import datetime
import functools
import hashlib
import operator
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zeropoint.data import Loaders
from zeropoint.data.batches import example_inputs, split
from zeropoint.engines import Runner, installed, load_artefact, lower, missing, refusal, target, unsupported
from zeropoint.engines import find as engine
from zeropoint.errors import InputError, first_line
from zeropoint.files import make_folder
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program, at_batch, load
from zeropoint.graph.sizes import check_inputs, has_free_sizes, input_shapes
from zeropoint.measure import layers, parity
from zeropoint.measure.evaluate import Evaluation, Fitting, evaluate_all
from zeropoint.measure.integers import integers
from zeropoint.measure.latency import interleave, paired_ratio, summarize
from zeropoint.measure.layerwise import layerwise
from zeropoint.measure.results import EAGER, Results, Row
from zeropoint.measure.size import on_disk, parameter_bytes
from zeropoint.methods import find, label, named
from zeropoint.quantization import quantize
from zeropoint.report.files import load as load_results
from zeropoint.report.files import save as save_results
from zeropoint.targets import machine
from zeropoint.targets.options import Options
from zeropoint.targets.processor import warn_of
from zeropoint.training.checkpoint import beside, update, update_program
from zeropoint.tune.choose import by_placement

DEFAULT_METHODS = ("fp32", "bf16", "dynamic", "static")
PROGRAMS, ARTEFACTS = "programs", "artefacts"  # folders in the run folder
BITS = ("weight_bits", "activation_bits")  # options that each row has of its own
LOOKED_AT = 32  # items that layers are looked at on
LATENCY_SECONDS = 1.0  # spent timing each row, its references included


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, for the cache of references
class _Run:
    """What stays the same from row to row of one comparison."""

    program: Program
    data: Loaders
    folder: Path
    options: Options
    threads: int
    say: Callable[[str], None]


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
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Results:
    """Measures every method × bits × engine and gives the Results, which lie in the folder ``out`` as well.

    ``bits`` are as in W4A8; none: those of ``options``.
    ``threads`` and ``batch_size`` are those of the latency; accuracy is evaluated on all cores. ``engines``
    defaults to those installed. Rows that ``out`` already holds from the same model, data and options are
    kept, and quantized Programs in it are used again, as are checkpoints of those half done. ``say`` is told
    in a line what is being done.

    Raises InputError for an unknown method or engine, data that does not fit, or a folder with another run.
    """
    methods = list(dict.fromkeys(methods))
    engines = list(dict.fromkeys(installed() if engines is None else engines))
    options = options or Options()
    variants = [options.at(of) for of in dict.fromkeys(bits)] or [options]
    data = dataclasses.replace(data, evaluation=Fitting(data.evaluation, program))
    check_methods(methods, engines, variants)
    _check(program, data, methods, options)
    quantizes = any(find(name).quantizes for name in methods)
    warn_of(options.processor if quantizes else "", "the comparison")
    folder = make_folder(out)
    run = _Run(at_batch(program, batch_size), data, folder, options, threads, say)
    results = _begin(run, command)
    # From here on the folder is this comparison's, and no other may use its artefacts.
    rules = [target(name, options.processor) for name in engines if quantizes]
    results = dataclasses.replace(results, remarks=tuple(line for one in rules if (line := one.remark())))
    save_results(results, folder)
    before = torch.get_num_threads()
    try:
        plan = [
            (method, variant, group)
            for method in methods
            for variant in {find(method).bits(variant): variant for variant in variants}.values()
            for group in by_placement(program, method, engines, variant)
        ]
        for method, variant, group in plan:
            reasons = {name: unsupported(name, method, variant) for name in group}
            what = named(method, variant).removesuffix(" W8A8")
            skipped = {f"{what} on {name}": reason for name, reason in reasons.items() if reason}
            results = dataclasses.replace(results, skipped=results.skipped | skipped)
            done = {row.engine for row in results.rows if row.error is None and _is_of(row, method, variant)}
            able = [name for name in group if not reasons[name]]
            todo = [name for name in able if name not in done]
            for row, images in _rows(run, method, variant, todo, *able[:1]):
                kept = [old for old in results.rows if old.name != row.name]
                results = dataclasses.replace(results, rows=(*kept, row), images=images or results.images)
                save_results(results, run.folder)
    finally:
        torch.set_num_threads(before)
    save_results(results, run.folder)
    return results


def check_methods(methods: Sequence[str], engines: Sequence[str] | None, variants: Sequence[Options]) -> None:
    """Raises InputError for an unknown method or engine, or where no engine can run what is to be quantized.

    It needs neither model nor data. ``engines`` are those installed where None.
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


def _check(program: Program, data: Loaders, methods: list[str], options: Options) -> None:
    """Raises InputError for what would only fail later, before anything is measured or written."""
    if program.method != "fp32":
        raise InputError(f"the Program is {program.method} already; compare the float one")
    needs = [find(method) for method in methods]
    if any(need.needs("train") for need in needs) and data.train is None:
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


def _begin(run: _Run, command: str) -> Results:
    """The results that the folder holds of the same comparison, or empty ones."""
    options = {key: list(v) if isinstance(v, tuple) else v for key, v in run.options.as_dict().items()}
    options = {key: v for key, v in options.items() if key not in BITS}
    fresh = Results(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        model=run.program.origin or "a model",
        data=run.data.name,
        threads=run.threads,
        batch_size=len(run.program.example_inputs[0]) if run.program.example_inputs[0].dim() else 1,
        images=0,
        machine=machine.describe(),
        options=options,
        missing=missing(),
        fingerprint=_fingerprint(run.program, run.data),
    )
    if not (run.folder / "results.json").exists():
        for part in (PROGRAMS, ARTEFACTS, layers.FOLDER):  # of a comparison whose results were deleted
            shutil.rmtree(run.folder / part, ignore_errors=True)
        return fresh
    earlier = load_results(run.folder)
    for part in ("model", "data", "threads", "batch_size", "options", "machine", "fingerprint"):
        if getattr(earlier, part) != getattr(fresh, part):
            what = "weights or other data" if part == "fingerprint" else part.replace("_", " ")
            if part == "options":
                changed = {key: v for key, v in fresh.options.items() if earlier.options.get(key) != v}
                what += "".join(
                    f", {key} {earlier.options.get(key)} and not {v}" for key, v in changed.items()
                )
            raise InputError(
                f"{run.folder} holds a comparison with other {what}; give another --out, or delete it"
            )
    run.say(f"continuing the run in {run.folder}; finished rows: {len(earlier.rows)}")
    return dataclasses.replace(fresh, rows=earlier.rows, images=earlier.images, created=earlier.created)


def _fingerprint(program: Program, data: Loaders) -> str:
    """A hash of the float graph, its weights and free sizes, the first batches of data, and their number."""
    digest = hashlib.sha256()
    update_program(digest, program)
    first = [split(next(iter(loader))) for loader in (data.calibration, data.evaluation)]
    parts = [part for inputs, labels in first for part in (*inputs, labels) if part is not None]
    batches = [("batch", part) for part in parts]
    update(digest, batches)
    if has_free_sizes(program.module):
        digest.update(f"{input_shapes(program.module)}".encode())
    for loader in (data.calibration, data.evaluation, data.train):
        digest.update(f"{0 if loader is None else operator.length_hint(loader)} batches".encode())
    return digest.hexdigest()


def _is_of(row: Row, method: str, options: Options) -> bool:
    return row.method == method and find(method).bits(options) in ("", row.bits)


def _rows(
    run: _Run, method: str, options: Options, names: list[str], target: str = ""
) -> Iterator[tuple[Row, int]]:
    """A row for each engine, with the number of images evaluated; one pass over the data serves all."""
    if not names:
        return
    program, what = _quantized(run, method, options, target), named(method, options)
    reference = _reference(run, EAGER, machine.cores())
    runners: dict[str, Runner] = {}
    for name in names:
        run.say(f"{what} on {name}: compiling")
        try:
            if program is run.program:
                runners[name] = _reference(run, name, machine.cores())
            else:
                runners[name] = _runner(run, program, name, machine.cores())
            runners[name](*run.program.example_inputs)
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
            float32=reference,
            simulation=program if quantized else None,
            description=f"{what}: evaluating",
        )
    except InputError:
        raise
    except Exception as error:
        yield from ((_failed(program, name, error), 0) for name in runners)
        return
    for name, runner in runners.items():
        run.say(f"{what} on {name}: timing")
        try:
            row = _row(run, program, runner, evaluations[name], evaluations.get("simulation"))
        except Exception as error:
            row = _failed(program, name, error)
        yield row, evaluations[name].accuracy.images


def _quantized(run: _Run, method: str, options: Options, target: str) -> Program:
    """The Program of a method, taken from the run folder where an interrupted run left it."""
    if method == "fp32":
        return run.program
    parts = [
        method,
        options.bits if find(method).quantizes else "",
        target if find(method).needs("calibration") else "",
    ]
    path = run.folder / PROGRAMS / f"{'-'.join(part for part in parts if part)}.pt2"
    if path.exists():
        return load(path)
    what = named(method, options)
    run.say(
        f"{what} for {target}: quantizing" if find(method).needs("calibration") else f"{what}: converting"
    )
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
    )
    program.save(path)
    kept.unlink(missing_ok=True)
    if find(method).quantizes:
        try:
            layers.save(layers.describe(program, layerwise(program, data.evaluation, LOOKED_AT)), run.folder)
        except Exception as error:  # the report lacks a picture, but the row can be measured
            run.say(f"{named(method, options)}: cannot look at its layers: {first_line(error)}")
    return program


def _runner(run: _Run, program: Program, name: str, threads: int) -> Runner:
    """The Program on an engine, its artefact in the run folder."""
    module = engine(name)
    bits = f"-W{program.weight_bits}A{program.activation_bits}" if find(program.method).quantizes else ""
    path = run.folder / ARTEFACTS / f"{program.method}{bits}{module.artefact_name(program)}"
    if not path.exists():
        lower(program, name, path, run.threads)  # what is timed is to be fast
    return load_artefact(name, path, threads)


@functools.lru_cache(maxsize=8)
def _reference(run: _Run, name: str, threads: int) -> Runner:
    """Float32 on an engine; on torch that is eager PyTorch. Cached, since every row is timed beside it."""
    return _runner(run, run.program, name, threads)


def _row(
    run: _Run, program: Program, runner: Runner, evaluation: Evaluation, simulation: Evaluation | None
) -> Row:
    name = runner.engine
    timed = {
        "eager": _reference(run, EAGER, run.threads),
        "engine": _reference(run, name, run.threads),
        "row": load_artefact(name, runner.artefact, run.threads),
    }
    calls = {
        key: lambda timed_run=timed_run: timed_run(*run.program.example_inputs)
        for key, timed_run in timed.items()
    }
    samples = interleave(calls, seconds=LATENCY_SECONDS)
    fidelity, judged = evaluation.fidelity, None
    if simulation is not None and simulation.fidelity and fidelity and evaluation.parity:
        judged = parity.judge(fidelity, simulation.fidelity, evaluation.parity)
        if not judged.ok:
            run.say(f"{label(program)} on {name}: finding where it differs from the simulation")
            judged = parity.explained(judged, program, name, example_inputs(run.data.evaluation))
    size = on_disk(runner.artefact)
    done = integers(program, runner) if find(program.method).quantizes else None
    return Row(
        method=program.method,
        engine=name,
        weight_bits=program.weight_bits,
        activation_bits=program.activation_bits,
        top1=evaluation.accuracy.top1,
        loss=evaluation.accuracy.loss,
        agreement=fidelity.agreement if fidelity else None,
        sqnr_db=fidelity.sqnr_db if fidelity else None,
        latency_ms=summarize(samples["row"]),
        speedup_eager=paired_ratio(samples["eager"], samples["row"]).median,
        speedup_engine=paired_ratio(samples["engine"], samples["row"]).median,
        size_bytes=size,
        shrink=on_disk(timed["eager"].artefact) / size,
        parameter_bytes=parameter_bytes(program),
        quantize_seconds=program.quantize_seconds,
        artefact=str(runner.artefact.relative_to(run.folder)),
        parity=judged,
        int8_share=done.share if done else None,
        fallbacks=done.fallbacks if done else (),
    )


def _failed(program: Program, name: str, error: Exception) -> Row:
    line = first_line(error)[:300]
    return Row(program.method, name, program.weight_bits, program.activation_bits, error=line)
