"""The command line: it parses, calls the library and prints; it decides nothing.

torch is imported inside the commands, so that help is instant.
"""

import json as json_text
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from zeropoint import progress
from zeropoint.cli.options import (
    BITS,
    Accumulate,
    Activation16,
    ActivationSymmetric,
    Average,
    BatchSize,
    CalibrationBatches,
    Compile,
    Data,
    EndBits,
    Engine,
    Epochs,
    FreeSizes,
    GroupSize,
    Json,
    LearningRate,
    LimitBatches,
    Model,
    NoFuse,
    Optimizer,
    Precision,
    Processor,
    Ranges,
    Rounding,
    SavedOrArtefact,
    SavedOrModel,
    Seed,
    Skip,
    Target,
    Threads,
    Warmup,
    WeightDecay,
    WeightGranularity,
    WeightRanges,
    Weights,
    WeightSymmetric,
)
from zeropoint.errors import InputError, InputWarning, first_line
from zeropoint.targets.processor import NATIVE
from zeropoint.training.options import TrainingOptions

if TYPE_CHECKING:
    from zeropoint.targets.options import Options

app = typer.Typer(
    help="Quantize a PyTorch model every way that counts, and measure what each way costs and gains.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_out, _err = Console(), Console(stderr=True)


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the libraries' warnings.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no word of what is being done, only results.")
    ] = False,
) -> None:
    """Quantize a PyTorch model every way that counts, and measure what each way costs and gains."""


@app.command()
def compare(
    context: typer.Context,
    model: Model,
    data: Data,
    methods: Annotated[
        str, typer.Option(help="Comma-separated: fp32, bf16, dynamic, weight-only, static, static-best, qat.")
    ] = ("fp32,bf16,dynamic,static"),
    engines: Annotated[str | None, typer.Option(help="Comma-separated; default: those installed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/MODEL.")] = None,
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    threads: Threads = 1,
    latency_batch_size: Annotated[
        int, typer.Option(min=1, help="Batch size that latency is measured at.")
    ] = 1,
    bits: Annotated[str, typer.Option(help=f"{BITS} Comma-separated: each method at each.")] = "W8A8",
    end_bits: EndBits = None,
    weight_symmetric: WeightSymmetric = None,
    activation_symmetric: ActivationSymmetric = None,
    weight_granularity: WeightGranularity = None,
    group_size: GroupSize = None,
    ranges: Ranges = "mse",
    weight_ranges: WeightRanges = None,
    rounding: Rounding = "gptq",
    skip: Skip = None,
    no_fuse: NoFuse = None,
    free_sizes: FreeSizes = False,
    activation16: Activation16 = None,
    processor: Processor = NATIVE,
    calibration_batches: CalibrationBatches = None,
    epochs: Epochs = TrainingOptions.epochs,
    learning_rate: LearningRate = TrainingOptions.learning_rate,
    json: Json = False,
) -> None:
    """Measure every method on every engine: one row each, in the terminal and in a run folder.

    The same command again continues a run that was cut off, static-best from the step that it had reached.
    """
    from zeropoint.cli.resolve import program_and_data
    from zeropoint.comparison.compare import check_methods
    from zeropoint.comparison.compare import compare as run_comparison
    from zeropoint.report.table import terminal

    options, listed = _options(context.params), _names(engines) if engines else None
    check_methods(_names(methods), listed, [options.at(of) for of in _names(bits)])
    program, loaders = program_and_data(
        model, weights, data, batch_size, limit_batches, free_sizes=free_sizes
    )
    folder = out or Path("runs") / model.removesuffix(".pt2").replace("/", "-").replace(":", "-")
    with _interruptible():
        results = run_comparison(
            program,
            loaders,
            out=folder,
            methods=_names(methods),
            engines=listed,
            bits=_names(bits),
            options=options,
            threads=threads,
            batch_size=latency_batch_size,
            command=_command(),
            say=progress.say,
        )
    if json:
        from zeropoint.report.files import record

        _print_json(record(results))
        return
    _print_table(terminal(results))
    _out.print(f"Results: {folder}/results.json, results.csv, results.md", style="dim", soft_wrap=True)
    try:
        _report([folder], folder / "report.html")
    except InputError as error:  # the comparison is done, whatever becomes of its report
        _out.print(f"No report: {error}", style="dim", markup=False, soft_wrap=True)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders that compare wrote; several go side by side."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file to write; default: RUN/report.html, of several: report.html here."),
    ] = None,
) -> None:
    """Draw the report of a comparison, or of several side by side, as one HTML file.

    compare writes it, too. The file needs no network and no other file.
    """
    _report(runs, out or (runs[0] if len(runs) == 1 else Path()) / "report.html")


def _report(runs: list[Path], out: Path) -> None:
    from zeropoint.report.html import write

    write(runs, out)
    _out.print(f"Report: {out}", style="dim", soft_wrap=True)


@app.command()
def quantize(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option(help="The .pt2 file to write.")],
    method: Annotated[
        str, typer.Option(help="bf16, dynamic, weight-only, static, static-best or qat.")
    ] = "static",
    data: Annotated[str | None, typer.Option(help="Data for static and qat, as for compare.")] = None,
    target: Target = "openvino",
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    bits: Annotated[str, typer.Option(help=BITS)] = "W8A8",
    end_bits: EndBits = None,
    weight_symmetric: WeightSymmetric = None,
    activation_symmetric: ActivationSymmetric = None,
    weight_granularity: WeightGranularity = None,
    group_size: GroupSize = None,
    ranges: Ranges = "mse",
    weight_ranges: WeightRanges = None,
    rounding: Rounding = "gptq",
    skip: Skip = None,
    no_fuse: NoFuse = None,
    free_sizes: FreeSizes = False,
    activation16: Activation16 = None,
    processor: Processor = NATIVE,
    calibration_batches: CalibrationBatches = None,
    epochs: Epochs = TrainingOptions.epochs,
    learning_rate: LearningRate = TrainingOptions.learning_rate,
) -> None:
    """Quantize a model by one method and save it to a .pt2 file that plain PyTorch opens, too.

    The same command again continues a static-best that was cut off.
    """
    from zeropoint import engines
    from zeropoint.cli.resolve import AUTO, program_and_data
    from zeropoint.measure.size import on_disk
    from zeropoint.methods import find
    from zeropoint.quantization import check_target
    from zeropoint.quantization import quantize as run_method
    from zeropoint.report.bench import chosen
    from zeropoint.training.checkpoint import beside
    from zeropoint.tune.choose import fastest_target

    if find(method).needs("calibration") and data is None:
        raise InputError(f"method '{method}' calibrates on data; give --data")
    _check_saved_name(out)
    options = _options(context.params).at(bits)
    if target != AUTO:
        check_target(engines.target(target, options.processor), method, options)
    program, loaders = program_and_data(
        model, weights, data, batch_size, limit_batches, free_sizes=free_sizes
    )
    parts: dict[str, Any] = {"calibration": None, "train": None, "validation": None}
    if data is not None:
        parts = {part: getattr(loaders, part) for part in parts}
    if target == AUTO:
        quantized, choice = fastest_target(program, method, **parts, options=options, say=progress.say)
        target = choice.engine
        _out.print(chosen(choice), soft_wrap=True)
    else:
        with _interruptible():
            quantized = run_method(
                program, method, **parts, target=target, options=options, checkpoint=beside(out)
            )
    quantized.save(out)
    beside(out).unlink(missing_ok=True)
    made = f"{method} W{quantized.weight_bits}A{quantized.activation_bits}"  # bf16 has bits of its own
    seconds, size = quantized.quantize_seconds, on_disk(out) / 1e6
    _out.print(f"{made} for {target} in {seconds:.1f} s: {out}, {size:.2f} MB", soft_wrap=True)


@app.command()
def evaluate(
    model: SavedOrModel,
    data: Data,
    engine: Engine = "torch",
    processor: Annotated[
        str | None,
        typer.Option(help="Simulate the arithmetic of a kind of processor, such as avx2, and run no engine."),
    ] = None,
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    json: Json = False,
) -> None:
    """Accuracy and loss of one model, on one engine or as a kind of processor computes it."""
    from zeropoint.cli.resolve import compiled, program_and_data
    from zeropoint.measure.evaluate import Fitting, Run
    from zeropoint.measure.evaluate import evaluate as run_evaluation
    from zeropoint.measure.simulate import on_processor
    from zeropoint.report.bench import chosen, evaluated
    from zeropoint.targets.processor import find

    simulated = None if processor is None else find(processor)
    program, loaders = program_and_data(model, weights, data, batch_size, limit_batches)
    run: Run
    if simulated is not None:
        run, choice, where = on_processor(program, simulated.name), None, f"simulated on {simulated.name}"
    else:
        run, choice = compiled(program, engine, threads=None, batch_size=batch_size, say=progress.say)
        where = run.engine
    if choice is not None and not json:
        _out.print(chosen(choice), soft_wrap=True)
    accuracy = run_evaluation(run, Fitting(loaders.evaluation, program)).accuracy
    if json:
        _print_json(evaluated(model, loaders.name, where, accuracy, choice))
    elif accuracy.top1 is None:
        _out.print(
            f"{accuracy.images} images, no labels: nothing to measure accuracy by; compare gives fidelity"
        )
    else:
        score = f"top-1 {accuracy.top1:.2%}, loss {accuracy.loss:.4f}"
        _out.print(f"{score} on {accuracy.images} images ({where})")


@app.command()
def bench(
    model: SavedOrArtefact,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another model, timed interleaved with MODEL.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="torch (the default), onnxruntime, openvino or auto. An artefact has its own."),
    ] = None,
    other_engine: Annotated[str | None, typer.Option(help="OTHER's engine; default: that of MODEL.")] = None,
    threads: Threads = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size of each call.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to spend measuring latency.")] = 3.0,
    weights: Weights = "default",
    data: Annotated[
        str | None,
        typer.Option(help="Where the shape of inputs is from: for a FILE.py model or a compiled package."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="A JSON file to write everything measured to; -: stdout, and nothing else there."),
    ] = None,
) -> None:
    """Latency, throughput, cold start, warm-up and memory of one model, or of two and which is faster.

    Cold start and memory are those of a fresh process that loads the engine's artefact and runs it. Warm-up
    is the time of its first calls, up to one that takes at most 10% longer than the median of later ones.
    """
    from zeropoint.cli import resolve
    from zeropoint.measure.benchmark import benchmark, benchmark_pair
    from zeropoint.report import bench as report

    candidate = partial(
        resolve.candidate, threads=threads, batch_size=batch_size, weights=weights, data=data, say=progress.say
    )
    candidates = [candidate(model, engine, "torch")]
    if other is not None:
        candidates.append(candidate(other, other_engine, engine or candidates[0].runner.engine))
    inputs = resolve.shared_inputs(candidates)
    runner, *others = [one.runner for one in candidates]
    pair = benchmark_pair(runner, others[0], inputs, seconds=seconds, say=progress.say) if others else None
    results = [pair.model, pair.other] if pair else [benchmark(runner, inputs, seconds=seconds, say=progress.say)]
    models, choices = [one.model for one in candidates], [one.choice for one in candidates]
    if json == Path("-"):
        _print_json(report.record(models, results, choices, pair, seconds=seconds, command=_command()))
        return
    for choice in choices:
        if choice is not None:
            _out.print(report.chosen(choice), soft_wrap=True)
    _out.print(report.terminal(models, results))
    if pair is not None:
        _out.print(report.compared(models, pair), soft_wrap=True)
    if json is not None:
        report.write_json(json, models, results, choices, pair, seconds=seconds, command=_command())


@app.command()
def inspect(
    model: SavedOrModel,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="Another one, such as a saved m.pt2 that was made from MODEL."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Show one layer in full: its name, or a glob such as 'layer4.*'.")
    ] = None,
    values: Annotated[
        int | None, typer.Option(min=0, help="Values of each tensor that are listed. Default: 9; 27 in full.")
    ] = None,
    weights: Weights = "default",
    data: Annotated[
        str | None, typer.Option(help="Where the shape of inputs is from, for a FILE.py model.")
    ] = None,
    json: Json = False,
) -> None:
    """What is in a model, layer by layer: shapes, bits, scales, integers, and why something stayed float.

    With a float MODEL and a quantized OTHER, integers stand beside the weights that they came from; of two
    quantized ones, what differs.
    """
    from zeropoint.cli.resolve import captured
    from zeropoint.inspection import differences, read
    from zeropoint.report import inspect as report

    programs = [captured(name, weights, data) for name in (model, other) if name is not None]
    shown = values if values is not None else read.VALUES if layer is None else read.IN_FULL
    before, after = programs[0], programs[-1]
    reference = before if before.method == "fp32" and after.method != "fp32" else None
    seen = [read.inspect(before, values=shown)]
    if other is not None:
        seen.append(read.inspect(after, reference, values=shown))
    pairs = differences.pairs(*seen) if len(seen) == 2 else ()
    if layer is not None:
        seen, pairs = differences.only(seen, pairs, layer)
    if json:
        _print_json(report.record(seen, pairs))
        return
    # Where a terminal is narrower its lines go on in the next: better than numbers that are cut off.
    console = Console(width=max(_out.width if _out.is_terminal else 0, report.WIDTH))
    if layer is not None:
        console.print(report.in_full(seen, pairs))
    elif len(seen) == 2 and reference is None:
        console.print(report.compared(seen[0], seen[1], pairs))
    else:
        console.print(report.terminal(seen[-1], seen[0] if reference else None, pairs))


@app.command()
def train(
    context: typer.Context,
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    weights: Annotated[str, typer.Option(help="What to start from, as for compare.")] = "none",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 0.1,
    optimizer: Optimizer = "sgd",
    weight_decay: WeightDecay = 5e-4,
    warmup: Warmup = 0.1,
    accumulate: Accumulate = 1,
    average: Average = 0.0,
    precision: Precision = "auto",
    compile: Compile = TrainingOptions.compile,
    seed: Seed = 0,
) -> None:
    """Train a float classifier and save its weights."""
    from zeropoint import data as data_sets
    from zeropoint.training.floats import train_float

    loaders = data_sets.resolve(data, batch_size=batch_size, limit_batches=limit_batches, seed=seed)
    result = train_float(model, loaders, out, _recipe(context.params), weights=weights)
    score = "" if result.accuracy is None else f", validation top-1 {result.accuracy:.2%}"
    _out.print(f"kept epoch {result.epoch} of {epochs}{score}: {out}")


@app.command()
def diagnose(
    context: typer.Context,
    model: Model,
    data: Data,
    method: Annotated[
        str, typer.Option(help="dynamic, weight-only, static, static-best or qat: what is diagnosed.")
    ] = "static",
    bits: Annotated[str, typer.Option(help=BITS)] = "W8A8",
    engine: Annotated[
        str,
        typer.Option(
            help="Whose placement rules are used, and where layers are timed: openvino or onnxruntime;"
            " torch tells no times."
        ),
    ] = "openvino",
    items: Annotated[
        int, typer.Option(min=1, help="Inputs to look at, of the validation data, or else of calibration.")
    ] = 64,
    top: Annotated[int, typer.Option(min=1, help="Show so many of the worst layers.")] = 10,
    apply: Annotated[
        Path | None, typer.Option(help="Take the advice that helps, and save the Program to this .pt2.")
    ] = None,
    most_latency: Annotated[
        float, typer.Option(min=0, help="By how much --apply may slow the model down; 0.1: a tenth.")
    ] = 0.1,
    json: Json = False,
    threads: Threads = 1,
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    end_bits: EndBits = None,
    weight_symmetric: WeightSymmetric = None,
    activation_symmetric: ActivationSymmetric = None,
    weight_granularity: WeightGranularity = None,
    group_size: GroupSize = None,
    ranges: Ranges = "mse",
    weight_ranges: WeightRanges = None,
    rounding: Rounding = "gptq",
    skip: Skip = None,
    no_fuse: NoFuse = None,
    activation16: Activation16 = None,
    processor: Processor = NATIVE,
    calibration_batches: CalibrationBatches = None,
    epochs: Epochs = TrainingOptions.epochs,
    learning_rate: LearningRate = TrainingOptions.learning_rate,
) -> None:
    """Find the layers that a quantized model loses accuracy in, why, what they cost in time, and fixes.

    A float MODEL is quantized by the method first; a saved quantized one is looked at as it is.
    """
    from zeropoint import engines
    from zeropoint.cli.resolve import program_and_data
    from zeropoint.diagnosis.diagnose import diagnose as run_diagnosis
    from zeropoint.diagnosis.diagnose import fixed
    from zeropoint.methods import find
    from zeropoint.quantization import check_target
    from zeropoint.quantization import quantize as run_method
    from zeropoint.report.diagnosis import taken, terminal

    if not find(method).quantizes:
        raise InputError(f"{method} quantizes nothing; give static, static-best, dynamic, weight-only or qat")
    if apply is not None:
        _check_saved_name(apply)
    engines.find(engine)
    options = _options(context.params).at(bits)
    check_target(engines.target(engine, options.processor), method, options)
    program, loaders = program_and_data(model, weights, data, batch_size, limit_batches)
    quantized = program
    if program.method == "fp32":
        parts = {part: getattr(loaders, part) for part in ("calibration", "train", "validation")}
        progress.say(f"{method}: quantizing for {engine}")
        quantized = run_method(program, method, **parts, target=engine, options=options)
    timed = engine if engine != "torch" else None
    # Fixes are chosen by it, so it is not what accuracy is evaluated on afterwards.
    looked_at = loaders.calibration if loaders.validation is None else loaders.validation
    diagnosis = run_diagnosis(
        quantized,
        looked_at,
        engine=timed,
        items=items,
        threads=threads,
        processor=options.processor,
        say=progress.say,
    )
    if json:
        _print_json(diagnosis.as_dict())
    else:
        _print_table(terminal(diagnosis, top))
    if apply is not None:
        better, advice = fixed(
            quantized, diagnosis, looked_at, most_latency=most_latency, processor=options.processor
        )
        better.save(apply)
        (_err if json else _out).print(f"{apply}: {taken(advice)}", soft_wrap=True, highlight=False)


@app.command()
def qat(
    context: typer.Context,
    model: SavedOrModel,
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder of the training.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --out, to the same result.")
    ] = False,
    bits: Annotated[str, typer.Option(help=BITS)] = "W8A8",
    teacher: Annotated[
        str | None, typer.Option(help="The float model that teaches a quantized MODEL; else MODEL itself.")
    ] = None,
    target: Annotated[str, typer.Option(help="The engine whose placement rules are used.")] = "openvino",
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    epochs: Epochs = 10,
    learning_rate: LearningRate = TrainingOptions.learning_rate,
    optimizer: Optimizer = TrainingOptions.optimizer,
    weight_decay: WeightDecay = TrainingOptions.weight_decay,
    warmup: Warmup = TrainingOptions.warmup,
    accumulate: Accumulate = TrainingOptions.accumulate,
    average: Average = TrainingOptions.average,
    precision: Precision = TrainingOptions.precision,
    compile: Compile = TrainingOptions.compile,
    minutes: Annotated[float, typer.Option(help="Between checkpoints, beside those of epochs.")] = (
        TrainingOptions.minutes
    ),
    distillation: Annotated[
        float | None,
        typer.Option(help="The float network's share of the loss; default: as much as it is right."),
    ] = None,
    step_sizes: Annotated[str, typer.Option(help="How those of activations are learned: lsq or pact.")] = (
        "lsq"
    ),
    progressive: Annotated[
        bool, typer.Option("--progressive", help="A third of the epochs at twice the bits of weights first.")
    ] = False,
    end_bits: EndBits = None,
    weight_granularity: WeightGranularity = None,
    rounding: Rounding = "gptq",
    skip: Skip = None,
    no_fuse: NoFuse = None,
    processor: Processor = NATIVE,
    seed: Seed = 0,
) -> None:
    """Quantization-aware training, kept in a folder: Ctrl-C, SIGTERM or a crash lose little, see --resume.

    Starts from a float model, which static quantizes first, or from a saved quantized one. Several processes,
    GPUs or machines: torchrun --nproc-per-node N -m zeropoint qat ...
    """
    from zeropoint.cli.resolve import program_and_data
    from zeropoint.measure.size import on_disk
    from zeropoint.quantization import train_quantized
    from zeropoint.training.folder import Folder
    from zeropoint.training.processes import is_first

    program, loaders = program_and_data(model, weights, data, batch_size, limit_batches)
    if loaders.train is None:
        raise InputError(f"{loaders.name} has no training data; add a train loader")
    taught = None if teacher is None else program_and_data(teacher, weights, data, batch_size, 1)[0]
    with _interruptible("the same command with --resume"):
        trained = train_quantized(
            program,
            loaders.train,
            calibration=loaders.calibration,
            validation=loaders.validation,
            target=target,
            options=_options(context.params).at(bits),
            teacher=taught,
            folder=out,
            resume=resume,
        )
    if is_first():
        file, made = Folder(out).program, f"qat W{trained.weight_bits}A{trained.activation_bits}"
        size, seconds = on_disk(file) / 1e6, trained.quantize_seconds
        _out.print(f"{made} for {trained.target} in {seconds:.1f} s: {file}, {size:.2f} MB", soft_wrap=True)


def _options(parameters: dict[str, Any]) -> "Options":
    """Options from the command's parameters of the same names."""
    from dataclasses import fields

    from zeropoint.targets.options import Options

    names = {field.name for field in fields(Options)} & parameters.keys()
    given = {name: parameters[name] for name in names}
    lists = {name: tuple(given.get(name) or ()) for name in ("skip", "no_fuse", "activation16")}
    return Options(**given | lists | {"training": _recipe(parameters)})


def _recipe(parameters: dict[str, Any]) -> TrainingOptions:
    """The TrainingOptions from the command's parameters of the same names."""
    return TrainingOptions(
        **{name: parameters[name] for name in vars(TrainingOptions()).keys() & parameters.keys()}
    )


class _StoppedError(Exception):
    """Ctrl-C with words of what it interrupted, which typer would lose."""


@contextmanager
def _interruptible(again: str = "the same command again") -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        if not str(stop):
            raise
        raise _StoppedError(f"{stop}; {again} goes on from there") from None


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _check_saved_name(path: Path) -> None:
    if path.suffix != ".pt2":
        raise InputError(f"cannot write {path}: a Program is saved as .pt2; give such a name")


def _print_table(table: RenderableType) -> None:
    """Wide enough for it where the output is a file or a pipe."""
    Console(width=None if _out.is_terminal else 160).print(table)


def _print_json(record: dict[str, Any]) -> None:
    print(json_text.dumps(record, indent=2, allow_nan=False))


def _command() -> str:
    return shlex.join(["zeropoint", *sys.argv[1:]])


def main() -> None:
    """Runs the command line; exits with 0, 1 for a fault of ours, 2 for the user's input, 130 for Ctrl-C.

    SIGTERM is treated as Ctrl-C, so that nothing half-written stays, and exits with 143.
    """
    terminated: list[int] = []

    def terminate(number: int, _: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    debug = "--debug" in sys.argv[1:]
    progress.show_lines()
    progress.be_quiet("--quiet" in sys.argv[1:])
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--debug", "--quiet")]
    if not debug:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = lambda message, *_: _err.print(f"warning: {message}", soft_wrap=True)
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        logging.disable(logging.WARNING)
    kept = "what is finished is kept"
    try:
        status = app(args=arguments or ["--help"], prog_name="zeropoint", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "zeropoint"
        status = _fail(f"{error.format_message().rstrip('.')}; see {command} --help", 2)
    except InputError as error:
        status = _fail(str(error), 2, debug)
    except KeyboardInterrupt:
        status = 130
    except _StoppedError as stop:
        status, kept = 130, str(stop)
    except Exception as error:
        message = f"{type(error).__name__}: {first_line(error)} (a fault of zeropoint's; --debug shows where)"
        status = _fail(message, 1, debug)
    if status == 130:  # typer, too, gives this back for Ctrl-C
        _err.print(f"interrupted; {kept}", markup=False, highlight=False, soft_wrap=True)
        status = 143 if terminated else 130
    signal.signal(signal.SIGTERM, before)
    sys.exit(status or 0)


def _fail(message: str, status: int, debug: bool = False) -> int:
    """Prints the one line that says what is wrong, and under --debug the traceback before it."""
    if debug:
        traceback.print_exc()
    line = " ".join(message.split())
    _err.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status
