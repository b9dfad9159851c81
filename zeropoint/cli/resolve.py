"""Resolve: what MODEL, DATA and ENGINE name on the command line, opened."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from zeropoint import data as data_sets
from zeropoint import engines, models, progress, tasks
from zeropoint.data import Loaders
from zeropoint.data.batches import example_inputs, first_batch
from zeropoint.engines import Runner, artefact
from zeropoint.errors import InputError
from zeropoint.graph import archive, plain, program
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program, at_batch
from zeropoint.graph.signature import call_of
from zeropoint.methods import label
from zeropoint.models.refusals import refuse_model
from zeropoint.models.source import Promise, Source, fitting_shape, like
from zeropoint.models.userfile import is_userfile, load
from zeropoint.models.vision import torchvision
from zeropoint.tasks import Task
from zeropoint.training.task import OwnLoss
from zeropoint.tuning.choose import Choice, fastest_engine

AUTO, TASK = "auto", "task"
IMAGES = ("imagefolder:", "coco:", "voc:", "datasets:")  # data that may be what weights were evaluated on
Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A model that is ready to be benchmarked.

    ``inputs`` is None if the shape of an artefact's inputs is unknown. ``choice`` holds the engines among
    which the fastest was chosen, if it was.
    """

    model: str
    runner: Runner
    inputs: tuple[Tensor, ...] | None
    choice: Choice | None = None


def program_and_data(
    model: str,
    weights: str,
    data: str | None,
    batch_size: int,
    limit_batches: int | None,
    *,
    task: str | None = None,
    free_sizes: bool = False,
    say: Say = progress.say,
) -> tuple[Program, Loaders]:
    """The captured or loaded Program, and the data; without any data named, random inputs of the model.

    What data is read is said.

    Raises InputError if the model cannot be opened, or is an engine's artefact, which is no Program.
    """
    if artefact.is_compiled(model):
        own = artefact.engine_of(model)
        if model.endswith(".onnx") or not Path(model).exists():
            raise refuse_model(Path(model))
        raise InputError(f"{model} is an artefact of {own}; give the .pt2 or the model that it was made from")
    if data is None and is_userfile(model):
        raise InputError(
            f"the shape of {model}'s inputs is that of its data; give --data, if only random:3x32x32"
        )
    loaded, source = opened(model, weights, task)
    if free_sizes and loaded is not None:
        raise InputError(f"{model} is captured already; give --free-sizes when it is made from the model")
    loaders = data_sets.resolve(
        data or ("digits" if model.startswith("digits/") else "random"),
        batch_size=batch_size,
        limit_batches=limit_batches,
        inputs=source.inputs,
        preprocessing=source.preprocessing,
        tokenizer=source.tokenizer,
        say=say if data is not None else silent,
    )
    if loaded is not None:
        return loaded, loaders
    args, kwargs = call_of(source.network, first_batch(loaders.evaluation))
    try:
        return capture(source.network, args, kwargs, free_sizes=free_sizes, origin=model), loaders
    except InputError as error:
        if data == "random" and source.inputs is None and (shape := fitting_shape(source.network)):
            raise InputError(f"{model} takes other inputs; give --data random:{shape}") from error
        raise


def opened(model: str, weights: str, task: str | None = None) -> tuple[Program | None, Source]:
    """The saved Program, if ``model`` is one, and the network or the Program's module, with its inputs.

    Raises InputError for an unknown task; a model of hf/ has names of its own for its heads.
    """
    if task is not None and not model.startswith("hf/"):
        tasks.find(task)
    if not models.is_program(model):
        return None, models.find(model, weights, task)
    if not archive.holds(Path(model), program.METADATA):
        return None, plain.source(Path(model))
    saved = program.load(model)
    inputs = like(saved.signature.batch_of(saved.example_inputs), free_batch=saved.dynamic_batch)
    tokenizer = saved.origin.removeprefix("hf/") if saved.origin.startswith("hf/") else None
    return saved, Source(saved.module, inputs, tokenizer=tokenizer)


def captured(model: str, weights: str, data: str | None, task: str | None = None) -> Program:
    """The Program that ``model`` names; ``data`` gives the shape of the inputs of a user's model."""
    return program_and_data(model, weights, data, 1, 1, task=task, say=silent)[0]


def silent(_: str) -> None:
    """Says nothing: the data only tells the shape of inputs."""


def told_task(task: str | None, data: str | None) -> str | None:
    """The task of the option, else that which the form of the data tells.

    Raises InputError for a task that data of this form cannot have.
    """
    told = data_sets.task_of(data)
    if task == "masked-language-modelling" and told is not None:
        raise InputError(f"{data} masks no tokens; give FILE.py:FUNCTION with batches that do")
    return task or told


def promise_of(model: str, weights: str, data: str) -> Promise | None:
    """What the weights promise on images of the user, if the model is named and they are."""
    return models.promise(model, weights) if data.startswith(IMAGES) else None


def task_of(
    task: str | None, metrics: list[str] | None, higher_is_better: bool | None, postprocess: str | None
) -> Task | None:
    """The task of the options, with the metrics of the user's files; None if the data is to tell it."""
    given = metrics or []
    if postprocess or any(is_userfile(name) for name in given):
        with contextlib.suppress(InputError):
            torchvision()  # so that the user's file can import torchmetrics
    found = [load(name, "metric") if is_userfile(name) else name for name in given]
    return tasks.made(
        task, found, higher_is_better, load(postprocess, "postprocess") if postprocess else None
    )


def loss_of(loss: str | None, task: str | None) -> OwnLoss | None:
    """The loss of ``--loss``: a function of a user's file, or with ``task`` that of the task."""
    if loss is None:
        return None
    if loss == TASK:
        having = [name for name, one in tasks.TASKS.items() if one.loss]
        own = tasks.find(task).loss if task is not None else None
        if own is None:
            raise InputError(f"there is no loss of a task: give --task, one of {', '.join(having)}")
        return own
    if not is_userfile(loss):
        raise InputError(f"unknown loss '{loss}'; give FILE.py:NAME, or task for the task's own")
    own = load(loss, "loss")
    if not callable(own):
        raise InputError(f"{loss} is no function; give one of outputs and targets")
    return cast(OwnLoss, own)


def compiled(
    program: Program, engine: str, *, threads: int | None, batch_size: int, say: Say
) -> tuple[Runner, Choice | None]:
    """The Program on an engine, or for "auto" on the fastest one."""
    if engine == AUTO:
        return fastest_engine(program, threads=threads, batch_size=batch_size, say=say)
    say(f"{label(program)} on {engine}: compiling")
    return engines.compile(program, engine, threads=threads, batch_size=batch_size), None


def runner_of(model: str, engine: str | None, threads: int | None) -> Runner:
    """The artefact ``model`` on its engine. Raises InputError if it is of another one than ``engine``."""
    own = artefact.engine_of(model)
    if engine not in (None, AUTO, own):
        raise InputError(f"{model} is an artefact of {own} and runs on no other engine; leave {engine} out")
    return artefact.load(model, threads)


def runner_and_data(
    model: str, engine: str | None, data: str, batch_size: int, limit_batches: int | None
) -> tuple[Runner, Loaders]:
    """An artefact on its engine, and the data; random inputs are like those that it tells."""
    runner = runner_of(model, engine, None)
    inputs = engines.find(runner.engine).example_inputs(runner.artefact, batch_size)
    make = None if inputs is None else like(inputs, free_batch=True)
    loaders = data_sets.resolve(
        data, batch_size=batch_size, limit_batches=limit_batches, inputs=make, say=progress.say
    )
    return runner, loaders


def candidate(
    model: str,
    engine: str | None,
    default_engine: str,
    *,
    threads: int,
    batch_size: int,
    weights: str,
    data: str | None,
    say: Say,
    task: str | None = None,
) -> Candidate:
    """The model, saved Program or artefact that ``model`` names, on ``engine``.

    Without an ``engine`` an artefact is run by its own, any other model by ``default_engine``. Raises
    InputError if the model cannot be opened, or an artefact is another engine's.
    """
    for name in {engine or default_engine} - {AUTO}:
        engines.find(name)
    own = artefact.engine_of(model)
    if own is None:
        found = at_batch(captured(model, weights, data, task), batch_size)
        chosen = engine or default_engine
        runner, choice = compiled(found, chosen, threads=threads, batch_size=batch_size, say=say)
        return Candidate(model, runner, found.example_inputs, choice)
    runner = runner_of(model, engine, threads)
    inputs = engines.find(own).example_inputs(runner.artefact, batch_size)
    if data is not None and inputs is None:
        first = example_inputs(data_sets.resolve(data, batch_size=1, limit_batches=1).evaluation)
        inputs = tuple(tensor[:1].repeat(batch_size, *[1] * (tensor.dim() - 1)) for tensor in first)
    return Candidate(model, runner, inputs)


def shared_inputs(candidates: Sequence[Candidate]) -> tuple[Tensor, ...]:
    """The inputs that all ``candidates`` are called on.

    Raises InputError if they take different ones, or the inputs of all are unknown.
    """
    known = [one for one in candidates if one.inputs is not None]
    if not known:
        model = candidates[0].model
        raise InputError(f"{model} does not tell the shape of its inputs; give --data, as in random:3x32x32")
    first = known[0]
    for other in known[1:]:
        if _described(other) != _described(first):
            raise InputError(
                f"{other.model} takes {_described(other)}, {first.model} {_described(first)};"
                " give two models of the same inputs"
            )
    assert first.inputs is not None
    return first.inputs


def _described(one: Candidate) -> str:
    tensors = [f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in one.inputs or ()]
    return ", ".join(tensors).replace("torch.", "")
