"""Quantization of a Program by a method's name, for an engine by its name."""

import operator
import os
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zeropoint import engines, exports, progress
from zeropoint.data.batches import Loader
from zeropoint.errors import InputError, InputWarning
from zeropoint.graph.program import Program, check_program
from zeropoint.graph.signature import flattened
from zeropoint.methods import find, named
from zeropoint.methods.method import Job, Method, run
from zeropoint.methods.qat import QAT, fine_tuned
from zeropoint.methods.trainable import check_training
from zeropoint.models.userfile import identity
from zeropoint.passes.layout import laid_out
from zeropoint.targets.options import Options
from zeropoint.targets.target import Target
from zeropoint.training import randomness
from zeropoint.training.checkpoint import fingerprint
from zeropoint.training.folder import Folder, open_folder
from zeropoint.training.processes import is_first
from zeropoint.training.task import OwnLoss


def quantize(
    program: Program,
    method: str = "static",
    *,
    calibration: Loader | None = None,
    train: Loader | None = None,
    validation: Loader | None = None,
    target: str | Target = "openvino",
    options: Options | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    loss: OwnLoss | None = None,
) -> Program:
    """The float ``program`` after the method of that name, quantized as suits the ``target`` engine.

    ``calibration`` yields batches as a model's loader does, labels or not; ``train`` yields batches to train
    on, and ``validation`` chooses among epochs. ``loss``, of outputs and targets, is what training lowers: by
    default a classifier's if targets are class numbers, else the distance to the float outputs.
    ``checkpoint`` is a file in which ``static-best`` and ``qat``, which take minutes, keep how far they have
    got: after an interruption the same call goes on from there, to the same result. The file stays; remove it
    when the Program is saved.

    Raises InputError for an unknown method or target, bits or a scheme that the target cannot run, data that
    the method needs and has not, data that does not fit the model, or a checkpoint that cannot be written.

    >>> quantized = zp.quantize(program, "static", calibration=batches)
    >>> quantized.method, quantized.weight_bits, quantized.target
    ('static', 8, 'openvino')
    """
    asked, options = _checked(program, method, calibration, train), options or Options()
    rules = exports.target(target, options.processor) if isinstance(target, str) else target
    check_target(rules, method, options)
    started = time.perf_counter()
    parts = {
        name: flattened(loader, program.signature, f"the {name} data")
        for name, loader in (("calibration", calibration), ("train", train), ("validation", validation))
        if loader is not None
    }
    if asked.needs("train"):
        check_training(program, program, parts["train"], parts.get("validation"), loss)
    job = Job(
        program,
        rules,
        options,
        calibration=laid_out(program, parts["calibration"]) if asked.needs("calibration") else (),
        train=parts.get("train", ()),
        validation=parts.get("validation"),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        loss=loss,
    )
    with progress.about(f"{named(method, options)} for {rules.name}"):
        program = run(asked.passes, program, job)
    if asked.quantizes and program.weight_bits == 32:
        warnings.warn(InputWarning(_nothing(program)), stacklevel=2)
    return replace(program, quantize_seconds=time.perf_counter() - started)


def _nothing(program: Program) -> str:
    """In a line, why a method found nothing to quantize."""
    reasons = [decision.reason for decision in program.decisions if decision.reason]
    reason = reasons[0] if reasons else "the model has no layer with weights that integers are for"
    return f"{program.method} quantized nothing, and the Program computes in float: {reason}"


def _checked(program: Program, name: str, calibration: Loader | None, train: Loader | None) -> Method:
    method = find(name)
    check_program(program)
    if program.method != "fp32":
        raise InputError(f"the Program is {program.method} already; quantize the float one")
    for part, loader in (("calibration", calibration), ("train", train)):
        if method.needs(part) and loader is None:
            raise InputError(f"method '{name}' needs {part} data; give it")
    return method


def check_target(rules: Target, method: str, options: Options) -> None:
    """Raises InputError, which names the engines that can, where a target cannot run a method so."""
    if reason := engines.refusal(rules, method, options):
        raise InputError(f"{rules.name} cannot run {named(method, options)}: {reason}")


def train_quantized(
    program: Program,
    train: Loader,
    *,
    calibration: Loader | None = None,
    validation: Loader | None = None,
    target: str | Target = "openvino",
    options: Options | None = None,
    teacher: Program | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    loss: OwnLoss | None = None,
) -> Program:
    """The Program after quantization-aware training on batches of ``train``.

    A float ``program`` is quantized by ``static`` on ``calibration`` first, by default on the training data,
    and teaches beside the labels. A quantized one is trained as it is, with its own bits and target, and by
    the float ``teacher`` if one is given. ``validation`` chooses among epochs. Targets that are no class
    numbers are for a ``loss`` of your own, a function of the model's outputs and a batch's targets that gives
    the mean of the batch. Without one the outputs are trained towards those of the float model.

    ``folder`` keeps ``last.checkpoint``, ``metrics.jsonl`` and, in the end, ``program.pt2``. With ``resume``
    the training in it goes on, to the weights that it would have had without the interruption, or with more
    epochs than before: then the learning rate of each step that is left is that of so many epochs. Of several
    processes that ``torchrun`` started the first one writes, and all give back the Program.

    Raises InputError for data that cannot be trained on, a folder that holds another training, and as
    ``quantize`` does.

    >>> options = zp.Options(training=zp.TrainingOptions(epochs=1))
    >>> trained = zp.train_quantized(program, batches, options=options)
    >>> trained.method
    'qat'
    """
    check_program(program)
    options = options or Options()
    if program.method == "fp32" and teacher is not None:
        raise InputError("a float model teaches itself; leave the teacher out")
    if program.method != "fp32":
        target = program.target
        options = options.at(f"W{program.weight_bits}A{program.activation_bits}")
        program = replace(program, processor=program.processor or options.processor)
        options = replace(options, processor=program.processor)
    rules = exports.target(target, options.processor) if isinstance(target, str) else target
    check_target(rules, "qat", options)
    train = flattened(train, program.signature, "the training data")
    calibration = None if calibration is None else flattened(calibration, program.signature)
    validation = None if validation is None else flattened(validation, program.signature)
    check_training(program, program if program.method == "fp32" else teacher, train, validation, loss)
    place = None if folder is None else Folder(Path(folder))
    opened: AbstractContextManager[None] = nullcontext()
    if place is not None and is_first():
        # The first stage of a progressive training ends after a share of the epochs, which must stay.
        may_rise = () if options.progressive else ("epochs",)
        settings = _settings(program, rules, options) | {
            "teacher": "" if teacher is None else fingerprint(teacher),
            "loss": identity(loss),
            **_of_data(train, validation, options.training.seed),
        }
        opened = open_folder(place, settings, resume=resume, may_rise=may_rise)
    started = time.perf_counter()
    with opened, progress.about(f"{named('qat', options)} for {rules.name}"):
        if program.method == "fp32":
            data = train if calibration is None else calibration
            job = Job(program, rules, options, data, train, validation, folder=place, loss=loss)
            trained = run(QAT, program, job)
        else:
            trained = fine_tuned(program, teacher, options, train, validation, folder=place, loss=loss)
        trained = replace(trained, quantize_seconds=time.perf_counter() - started)
        if place is not None and is_first():
            trained.save(place.program)
    return trained


def _settings(program: Program, target: Target, options: Options) -> dict[str, Any]:
    """What must be the same for a training to go on, as plain values."""
    chosen = asdict(options)
    recipe = chosen.pop("training")
    recipe.pop("minutes")  # between checkpoints: they may come more often from now on
    started_from = {"model": program.origin, "weights": fingerprint(program), "start": program.method}
    return {**started_from, "target": target.name, "bits": options.bits, **chosen, **recipe}


def _of_data(train: Loader, validation: Loader | None, seed: int) -> dict[str, Any]:
    """What tells the data of a training from other data, as plain values."""
    return {
        "batches": operator.length_hint(train),
        "validation_batches": 0 if validation is None else operator.length_hint(validation),
        "data": randomness.fingerprint(seed, train),
    }
