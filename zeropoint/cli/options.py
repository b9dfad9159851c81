"""The options of the command line: the fields of two dataclasses, and those that several commands share.

A field's name, type and default are those of the dataclass; its help text is a row of a table here.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from zeropoint.errors import InputError
from zeropoint.files import check_writable
from zeropoint.targets import recipe
from zeropoint.targets.options import Options
from zeropoint.training.options import TrainingOptions

QUANTIZATION = {
    "end_bits": "Bits of the first and last layers; default: 8 or more for inputs, 8 for weights below 4.",
    "eight_bit_share": "Share of the work that may read 8 bits where fewer add most noise; 0 for none.",
    "weight_symmetric": "Symmetric or affine weights; default: as the engine needs.",
    "activation_symmetric": "Symmetric or affine activations; default: as the engine needs.",
    "weight_granularity": "Weight scales: per-tensor, per-channel, per-group; default: as the engine needs.",
    "group_size": "Inputs per scale of per-group weights; default: 128, or 32 if the layer has fewer inputs.",
    "ranges": "Estimator of activation ranges: minmax, moving-average, percentile, mse or entropy.",
    "weight_ranges": "Estimator of weight ranges: minmax or mse; default: minmax at 8 bits, mse below.",
    "rounding": "Rounding of static weights: gptq fits them to data, adaround takes longer, or nearest.",
    "recipe": "JSON list of rows with bits and schemes for some layers; later rows override earlier.",
    "skip": "Keep these modules float: a glob over module names, as in 'layer4.*'; may be repeated.",
    "no_fuse": "Give convolution, batch norm and ReLU in these modules a quantizer each; may be repeated.",
    "activation16": "16-bit inputs and outputs of these modules, as in 'blocks.*.norm*'; may be repeated.",
    "processor": "Processor to quantize for: native (this machine), avx2, avx512, vnni, amx, arm, any (all).",
    "calibration_batches": "Largest number of batches to calibrate on; default: all.",
    "seed": "Seed of the order of the data and of all else that is random.",
    "step_sizes": "What qat learns step sizes of activations from: lsq, all values, or pact, clipped ones.",
    "distillation": "Share of the float network in the loss of qat, 0 to 1; default: its accuracy.",
    "progressive": "Train the first third of the epochs of qat with twice the bits of weights.",
}
TRAINING = {
    "epochs": "Number of passes over the training data.",
    "learning_rate": "Highest learning rate; of qat, in weight steps, default: 0.003, or 0.03 below 4 bits.",
    "optimizer": "The optimizer: sgd, with Nesterov momentum 0.9, or adamw.",
    "weight_decay": "Weight decay of all parameters but biases, norms and step sizes.",
    "warmup": "Share of the steps in which the learning rate rises, 0 to 1.",
    "accumulate": "Number of batches whose gradients make one step.",
    "average": "Decay of a moving average of the weights, 0 to below 1; 0 for none.",
    "precision": "Precision of training: 32, bf16, or auto (bf16 on a GPU, 32 on a CPU).",
    "compile": "Compile the training step: takes a minute or two, then steps are faster.",
    "minutes": "Minutes between checkpoints; one is also saved after every epoch.",
    "seed": QUANTIZATION["seed"],
}
# Flags that are not --NAME, and what reads a value that is not of a plain type.
FLAGS = {
    "weight_symmetric": "--weight-symmetric/--weight-affine",
    "activation_symmetric": "--activation-symmetric/--activation-affine",
}
READERS = {"recipe": lambda path: recipe.load(Path(path))}


def quantizing(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of quantization and training, and calls it with one Options, ``options``.

    ``defaults`` are of fields whose default differs from that of the dataclass.
    """

    def make(given: dict[str, Any]) -> Options:
        return Options(**_of(QUANTIZATION, given), training=TrainingOptions(**_of(TRAINING, given)))

    parameters = _parameters(Options, QUANTIZATION, "Quantization", defaults)
    trained = {name: text for name, text in TRAINING.items() if name not in QUANTIZATION}
    return _replacing([*parameters, *_parameters(TrainingOptions, trained, "Training (qat)", defaults)], make)


def training(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of training, and calls it with one TrainingOptions, ``options``."""
    parameters = _parameters(TrainingOptions, TRAINING, "Training", defaults)
    return _replacing(parameters, lambda given: TrainingOptions(**_of(TRAINING, given)))


def _of(table: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    """The values that were given for the fields of ``table``."""
    values = {name: given[name] for name in table if given[name] is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _replacing(
    parameters: list[inspect.Parameter], make: Callable[[dict[str, Any]], object]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replaces the parameter ``options`` of a command by others, from which ``make`` makes its value."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(command).parameters.values() if one.name != "options"]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            command(**{one.name: given[one.name] for one in own}, options=make(given))

        signature = inspect.Signature([*own, *parameters])
        called.__signature__ = signature  # type: ignore[attr-defined]  # which typer reads
        called.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
        return called

    return decorate


def _parameters(
    owner: type, table: dict[str, str], panel: str, defaults: dict[str, Any]
) -> list[inspect.Parameter]:
    """The parameters of a command for the fields of a dataclass that are in ``table``.

    None, the default of those that are read or repeated, leaves a field to the default of the dataclass.
    """
    found, kinds = [], typing.get_type_hints(owner)  # without the ranges of numbers, which it checks itself
    for field in dataclasses.fields(owner):
        if field.name not in table:
            continue
        kind, default = kinds[field.name], defaults.get(field.name, field.default)
        reader = READERS.get(field.name)
        if reader is not None:
            kind, default = Any, None
        elif default == ():
            kind, default = list[str] | None, None
        elif "Literal" in str(kind):
            kind = str | None
        option = typer.Option(
            FLAGS.get(field.name, f"--{field.name.replace('_', '-')}"),
            help=table[field.name],
            rich_help_panel=panel,
            parser=reader,
            metavar="FILE" if reader else None,
        )
        place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        found.append(
            inspect.Parameter(field.name, place, default=default, annotation=Annotated[kind, option])
        )
    return found


class Command(typer.core.TyperCommand):
    """A command whose help lists the options below the headings of their panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes them."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panel = getattr(parameter, "rich_help_panel", None) or usual
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


# What several commands share.
METRIC = "Task and metric"
_MODELS = "torchvision/NAME, timm/NAME, hf/ID-or-FOLDER of transformers, digits/resnet, digits/mobilenet"
_CODE = "FILE.py:FUNCTION (runs the code in FILE.py; FUNCTION() returns"
Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help=f"The model: {_MODELS}, a FILE.pt2, or {_CODE} an nn.Module)."),
]
AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=f"The model: {_MODELS}, a FILE.pt2, {_CODE} an nn.Module), or an engine's artefact: .onnx,"
        " .openvino.xml, .pte, .torch.pt2, or .aoti.pt2 (runs the native code in it).",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="The data: digits, imagefolder:DIR, coco:DIR, voc:DIR, audiofolder:DIR, jsonl:FILE,"
        f" datasets:DIR, random, random:3x32x32, or {_CODE} a dict of the loaders calibration, evaluation"
        " and, if there are any, train and validation).",
    ),
]
Shape = Annotated[
    str | None,
    typer.Option(
        help="Data that tells the shape of inputs, if MODEL is FILE.py or compiled: random:3x32x32."
    ),
]
Bits = Annotated[
    str, typer.Option(help="Bits of weights, 2 to 8, and of activations, 2 to 16: W8A8, W4A8, W8A16.")
]
Weights = Annotated[
    str,
    typer.Option(
        help="Weights of the model: default, none (random), a name such as IMAGENET1K_V2, or a file,"
        " .safetensors or .pt."
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Samples per batch of calibration, evaluation and training.")
]
LimitBatches = Annotated[
    int | None,
    typer.Option(min=1, help="Largest number of batches to read of each part of the data; default: all."),
]
FreeSizes = Annotated[
    bool, typer.Option("--free-sizes", help="Leave all sizes of the inputs free, such as height and width.")
]
Task = Annotated[
    str | None,
    typer.Option(
        help="What outputs and targets mean: classification, segmentation, detection, regression, none and"
        " others, listed in docs/tasks.md; default: that of coco, voc, jsonl or texts of datasets, else"
        " classification, or none without targets.",
        rich_help_panel=METRIC,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="The head of a model of hf/, as in text-classification or segmentation; default: its config's.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="A metric in place of the task's: one of its own by name, or FILE.py:NAME, a function of outputs"
        " and targets, a function of model and loader, or a torchmetrics Metric; may be repeated. The first"
        " one is that of the verdict.",
        rich_help_panel=METRIC,
    ),
]
HigherIsBetter = Annotated[
    bool | None,
    typer.Option(
        "--higher-is-better/--lower-is-better",
        help="The direction of metrics of FILE.py that do not tell it; default: higher.",
        rich_help_panel=METRIC,
    ),
]
Postprocess = Annotated[
    str | None,
    typer.Option(
        help="FILE.py:NAME, a function that makes what metrics read of a batch's outputs.",
        rich_help_panel=METRIC,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        help="What qat lowers: FILE.py:NAME, a function of outputs and targets that gives a batch's mean, or"
        " task, the task's own; default: of class numbers a classifier's, else the distance to float32's"
        " outputs.",
        rich_help_panel=METRIC,
    ),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        help="What the first metric may lose: in its unit, as in 0.5, or in percent of float32's, as in 2%;"
        " default: one point of a metric in percent, 1% of any other.",
        rich_help_panel=METRIC,
    ),
]
Parts = Annotated[
    str | None,
    typer.Option(
        help="For a model that cannot be captured whole: quantize its submodules, auto (the largest that can"
        " be) or globs over their names, separated by commas. The rest runs in PyTorch. decoder: a language"
        " model of transformers with its key-value cache."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Number of threads when latency is measured.")]
Workers = Annotated[
    str | None,
    typer.Option(
        help="Compute on the machines of a Ray cluster: ray, for that of this machine, or ray://HOST:10001;"
        " default: here."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else on stdout.")]


def names(listed: str) -> list[str]:
    """The names of a comma-separated list."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def check_saved_name(path: Path) -> None:
    """Raises InputError if a Program cannot be saved under this name, or not at this place."""
    if path.suffix != ".pt2":
        raise InputError(f"cannot write {path}: a Program is saved as .pt2; give such a name")
    check_writable(path)
