"""``--parts`` of ``zeropoint quantize`` and ``zeropoint compare``."""

from pathlib import Path

from torch import nn

from zeropoint import data as data_sets
from zeropoint import models, progress
from zeropoint.cli import options as shared
from zeropoint.cli import output
from zeropoint.data import Loaders
from zeropoint.errors import InputError
from zeropoint.files import check_new
from zeropoint.models.userfile import is_userfile
from zeropoint.parts.compare import PartsRow, compare_parts
from zeropoint.parts.quantize import quantize_parts
from zeropoint.report import parts as report
from zeropoint.targets.options import Options
from zeropoint.tasks import Task

# Why an option means nothing for parts, of those that several commands have.
NO_LOSS = "no method for parts trains"
NO_FREE_SIZES = "a part takes the sizes that the model calls it with"


def refuse(options: dict[str, tuple[bool, str]]) -> None:
    """Raises InputError for the first option that is given and means nothing for parts, with the reason."""
    for name, (given, reason) in options.items():
        if given:
            raise InputError(f"--parts takes no {name}: {reason}; leave it out")


def opened(
    model: str, weights: str, task: str | None, data: str | None, batch_size: int, limit_batches: int | None
) -> tuple[nn.Module, Loaders]:
    """The model, not captured, and its data, by default random. Raises InputError for what has no modules."""
    if models.is_program(model):
        raise InputError(f"{model} is captured already; --parts takes the model that it was made from")
    if data is None and is_userfile(model):
        raise InputError(f"parts of {model} are found by running it on data; give --data")
    source = models.find(model, weights, task)
    loaders = data_sets.resolve(
        data or "random",
        batch_size=batch_size,
        limit_batches=limit_batches,
        inputs=source.inputs,
        preprocessing=source.preprocessing,
        tokenizer=source.tokenizer,
        say=progress.say,
    )
    return source.network, loaders


def quantize(
    given: tuple[nn.Module, Loaders], parts: str, out: Path, method: str, engine: str, options: Options
) -> None:
    """Writes a folder with the parts of the model, and prints what they are."""
    if out.suffix == ".pt2":
        raise InputError(f"cannot write {out}: parts are saved in a folder; give its name")
    check_new(out)
    model, loaders = given
    made = quantize_parts(
        model, loaders.calibration, method=method, engine=engine, parts=shared.names(parts), options=options
    )
    made.save(out)
    output.print_table(report.terminal(made))
    output.say(f"saved in {out}; zeropoint.load_parts(model, {str(out)!r}) puts them into the model")


def compare(
    given: tuple[nn.Module, Loaders],
    parts: str,
    methods: list[str],
    engines: list[str] | None,
    options: Options,
    *,
    task: Task | None,
    threads: int,
    json: bool,
) -> list[PartsRow]:
    """Prints a row for the float model, and one for every method and engine."""
    model, loaders = given
    rows = compare_parts(
        model,
        loaders.calibration,
        loaders.evaluation,
        methods=methods,
        engines=engines,
        parts=shared.names(parts),
        options=options,
        task=task,
        threads=threads,
        say=progress.say,
    )
    if json:
        output.print_json(report.record(rows))
    else:
        output.print_table(report.compared(rows, [one.measure for one in task.metrics] if task else []))
    return rows
