"""The command line: it parses, calls the library and prints; it decides nothing.

torch is imported inside the commands, so that help is instant.
"""

import logging
import os
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from zeropoint.errors import InputError, first_line

if TYPE_CHECKING:
    from zeropoint.data import Loaders
    from zeropoint.engines import Runner
    from zeropoint.options import Options
    from zeropoint.program import Program

app = typer.Typer(
    help="Quantize a PyTorch model every way that counts, and measure what each way costs and gains.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_out, _err = Console(), Console(stderr=True)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision/NAME, digits/resnet, digits/mobilenet, a saved m.pt2, or FILE.py:FUNCTION"
        " (which runs the code in FILE.py and calls FUNCTION() for an nn.Module).",
    ),
]
SavedOrModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="A saved m.pt2, or a model as for compare.")
]
Data = Annotated[
    str,
    typer.Option(
        help="digits, imagefolder:DIR, random, random:3x32x32, or FILE.py:FUNCTION (which runs the code in"
        " FILE.py and calls FUNCTION() for a dict of the loaders calibration, evaluation and perhaps train)."
    ),
]
Weights = Annotated[
    str,
    typer.Option(help="default, none (random), a name such as IMAGENET1K_V2, or a .safetensors or .pt file."),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Images per batch of calibration, evaluation and training.")
]
LimitBatches = Annotated[int | None, typer.Option(min=1, help="Read at most so many batches of each part.")]
Engine = Annotated[str, typer.Option(help="torch, onnxruntime or openvino.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that latency is measured with.")]
Target = Annotated[str, typer.Option(help="The engine whose placement rules are used.")]
WeightBits = Annotated[int, typer.Option(help="Bits of weights, 2 to 8.")]
ActivationBits = Annotated[int, typer.Option(help="Bits of activations, 2 to 8.")]
WeightSymmetric = Annotated[
    bool | None, typer.Option("--weight-symmetric/--weight-affine", help="Default: as suits the target.")
]
ActivationSymmetric = Annotated[
    bool | None,
    typer.Option("--activation-symmetric/--activation-affine", help="Default: as suits the target."),
]
WeightGranularity = Annotated[
    str | None, typer.Option(help="per-channel or per-tensor. Default: as suits the target.")
]
Ranges = Annotated[
    str, typer.Option(help="Activation ranges: minmax, moving-average, percentile, mse or entropy.")
]
WeightRanges = Annotated[str, typer.Option(help="Weight ranges: minmax or mse.")]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="Keep modules float: a glob over module names, such as 'layer4.*'. Repeatable."),
]
NoFuse = Annotated[
    list[str] | None,
    typer.Option(help="Keep conv, batch norm and ReLU apart there, each with its own quantizer. Repeatable."),
]
CalibrationBatches = Annotated[int | None, typer.Option(help="Calibrate on at most so many batches.")]
Epochs = Annotated[int, typer.Option(help="Epochs of quantization-aware training.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate of quantization-aware training.")]


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the libraries' warnings.")
    ] = False,
) -> None:
    """Quantize a PyTorch model every way that counts, and measure what each way costs and gains."""


@app.command()
def compare(
    context: typer.Context,
    model: Model,
    data: Data,
    methods: Annotated[str, typer.Option(help="Comma-separated: fp32, bf16, dynamic, static, qat.")] = (
        "fp32,bf16,dynamic,static"
    ),
    engines: Annotated[str | None, typer.Option(help="Comma-separated; default: those installed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/MODEL.")] = None,
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    threads: Threads = 1,
    latency_batch_size: Annotated[
        int, typer.Option(min=1, help="Batch size that latency is measured at.")
    ] = 1,
    weight_bits: WeightBits = 8,
    activation_bits: ActivationBits = 8,
    weight_symmetric: WeightSymmetric = None,
    activation_symmetric: ActivationSymmetric = None,
    weight_granularity: WeightGranularity = None,
    ranges: Ranges = "mse",
    weight_ranges: WeightRanges = "minmax",
    skip: Skip = None,
    no_fuse: NoFuse = None,
    calibration_batches: CalibrationBatches = None,
    epochs: Epochs = 3,
    learning_rate: LearningRate = 1e-4,
) -> None:
    """Measure every method on every engine: one row each, in the terminal and in a run folder.

    The same command again continues a run that was cut off.
    """
    from zeropoint.compare import compare as run_comparison
    from zeropoint.report.table import terminal

    options = _options(context.params)
    program, loaders = _program_and_data(model, weights, data, batch_size, limit_batches)
    folder = out or Path("runs") / model.removesuffix(".pt2").replace("/", "-").replace(":", "-")
    results = run_comparison(
        program,
        loaders,
        out=folder,
        methods=_names(methods),
        engines=_names(engines) if engines else None,
        options=options,
        threads=threads,
        batch_size=latency_batch_size,
        command=_command(),
        say=_say,
    )
    # Wide enough for the table where the output is a file or a pipe.
    Console(width=None if _out.is_terminal else 160).print(terminal(results))
    _out.print(f"Results: {folder}/results.json, results.csv, results.md", style="dim", soft_wrap=True)


@app.command()
def quantize(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option(help="The .pt2 file to write.")],
    method: Annotated[str, typer.Option(help="bf16, dynamic, static or qat.")] = "static",
    data: Annotated[str | None, typer.Option(help="Data for static and qat, as for compare.")] = None,
    target: Target = "openvino",
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    weight_bits: WeightBits = 8,
    activation_bits: ActivationBits = 8,
    weight_symmetric: WeightSymmetric = None,
    activation_symmetric: ActivationSymmetric = None,
    weight_granularity: WeightGranularity = None,
    ranges: Ranges = "mse",
    weight_ranges: WeightRanges = "minmax",
    skip: Skip = None,
    no_fuse: NoFuse = None,
    calibration_batches: CalibrationBatches = None,
    epochs: Epochs = 3,
    learning_rate: LearningRate = 1e-4,
) -> None:
    """Quantize a model by one method and save it to a .pt2 file that plain PyTorch opens, too."""
    from zeropoint.measure.size import on_disk
    from zeropoint.methods import find
    from zeropoint.methods import quantize as run_method

    if find(method).calibrates and data is None:
        raise InputError(f"method '{method}' calibrates on data; give --data")
    if out.suffix != ".pt2":
        raise InputError(f"cannot write {out}: a Program is saved as .pt2; give such a name")
    options = _options(context.params)
    program, loaders = _program_and_data(model, weights, data, batch_size, limit_batches)
    parts = {"calibration": None, "train": None, "validation": None}
    if data is not None:
        parts = {part: getattr(loaders, part) for part in parts}
    quantized = run_method(program, method, **parts, target=target, options=options)
    quantized.save(out)
    bits = f"W{quantized.weight_bits}A{quantized.activation_bits}"
    _out.print(f"{method} {bits} in {quantized.quantize_seconds:.1f} s: {out}, {on_disk(out) / 1e6:.2f} MB")


@app.command()
def evaluate(
    model: SavedOrModel,
    data: Data,
    engine: Engine = "torch",
    weights: Weights = "default",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
) -> None:
    """Accuracy and loss of one model on one engine."""
    from zeropoint.measure.evaluate import Fitting
    from zeropoint.measure.evaluate import evaluate as run_evaluation

    program, loaders = _program_and_data(model, weights, data, batch_size, limit_batches)
    runner = _compiled(program, engine, None, batch_size)
    accuracy = run_evaluation(runner, Fitting(loaders.evaluation, program)).accuracy
    if accuracy.top1 is None:
        _out.print(
            f"{accuracy.images} images, no labels: nothing to measure accuracy by; compare gives fidelity"
        )
    else:
        _out.print(
            f"top-1 {accuracy.top1:.2%}, loss {accuracy.loss:.4f} on {accuracy.images} images ({engine})"
        )


@app.command()
def bench(
    model: SavedOrModel,
    engine: Engine = "torch",
    threads: Threads = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size of each call.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to spend measuring.")] = 3.0,
    weights: Weights = "default",
    data: Annotated[
        str | None, typer.Option(help="Where the shape of inputs is from, for a FILE.py model.")
    ] = None,
) -> None:
    """Latency of one model on one engine."""
    from zeropoint.measure.benchmark import benchmark
    from zeropoint.program import at_batch

    program = at_batch(_program_and_data(model, weights, data, 1, 1)[0], batch_size)
    runner = _compiled(program, engine, threads, batch_size)
    inputs = program.example_inputs
    latency = benchmark(runner, inputs, seconds=seconds)
    spread = f"p10 {latency.p10:.3f}, p90 {latency.p90:.3f}"
    _out.print(
        f"{latency.p50:.3f} ms median ({spread}), batch {len(inputs[0])}, threads {threads} ({engine})"
    )


@app.command()
def train(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 0.1,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    weight_decay: Annotated[float, typer.Option(help="Decay of all but biases and norms.")] = 5e-4,
    weights: Annotated[str, typer.Option(help="What to start from, as for compare.")] = "none",
    batch_size: BatchSize = 32,
    limit_batches: LimitBatches = None,
    seed: Annotated[int, typer.Option(help="Of the order of the data.")] = 0,
) -> None:
    """Train a float classifier and save its weights."""
    from zeropoint import data as data_sets
    from zeropoint.training import train_float

    loaders = data_sets.resolve(data, batch_size=batch_size, limit_batches=limit_batches, seed=seed)
    result = train_float(
        model,
        loaders,
        out,
        weights=weights,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        weight_decay=weight_decay,
        seed=seed,
    )
    score = "" if result.accuracy is None else f", validation top-1 {result.accuracy:.2%}"
    _out.print(f"kept epoch {result.epoch} of {epochs}{score}: {out}")


def _program_and_data(
    model: str, weights: str, data: str | None, batch_size: int, limit_batches: int | None
) -> tuple["Program", "Loaders"]:
    """The captured or loaded Program, and the data; without any data named, random images."""
    from zeropoint import data as data_sets
    from zeropoint import models, program
    from zeropoint.batches import example_inputs
    from zeropoint.capture import capture
    from zeropoint.userfile import is_userfile

    if data is None and is_userfile(model):
        raise InputError(
            f"the shape of {model}'s inputs is that of its data; give --data, if only random:3x32x32"
        )
    data = data or ("digits" if model.startswith("digits/") else "random")
    loaders = data_sets.resolve(data, batch_size=batch_size, limit_batches=limit_batches)
    if models.is_program(model):
        return program.load(model), loaders
    network = models.resolve(model, weights)
    return capture(network, example_inputs(loaders.evaluation), origin=model), loaders


def _compiled(program: "Program", engine: str, threads: int | None, batch_size: int) -> "Runner":
    from zeropoint import engines

    _say(f"{program.method} on {engine}: compiling")
    return engines.compile(program, engine, threads=threads, batch_size=batch_size)


def _options(parameters: dict[str, Any]) -> "Options":
    """Options from the command's parameters of the same names."""
    from dataclasses import fields

    from zeropoint.options import Options

    names = {field.name for field in fields(Options)} & parameters.keys()
    given = {name: parameters[name] for name in names}
    return Options(**given | {name: tuple(given[name] or ()) for name in ("skip", "no_fuse")})


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _say(line: str) -> None:
    _err.print(line, style="dim", highlight=False, soft_wrap=True)


def _command() -> str:
    return shlex.join(["zeropoint", *sys.argv[1:]])


def main() -> None:
    """Runs the command line; exits with 0, 1 for a fault of ours, 2 for the user's input, 130 for Ctrl-C."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        logging.disable(logging.WARNING)
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
    except Exception as error:
        message = f"{type(error).__name__}: {first_line(error)} (a fault of zeropoint's; --debug shows where)"
        status = _fail(message, 1, debug)
    if status == 130:  # typer, too, gives this back for Ctrl-C
        _err.print("interrupted; what is finished is kept", soft_wrap=True)
    sys.exit(status or 0)


def _fail(message: str, status: int, debug: bool = False) -> int:
    """Prints the one line that says what is wrong, and under --debug the traceback before it."""
    if debug:
        traceback.print_exc()
    line = " ".join(message.split())
    _err.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status
