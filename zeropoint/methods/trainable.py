"""Trainable: whether a training can run, tried on first batches before anything that takes time."""

import warnings
from typing import Any

import torch
from torch import Tensor

from zeropoint.data.batches import FlatBatch, Loader, first_batch, split
from zeropoint.errors import InputError, InputWarning, first_line
from zeropoint.graph.program import Program
from zeropoint.graph.signature import flattened
from zeropoint.graph.sizes import check_inputs
from zeropoint.methods.losses import classifies
from zeropoint.tasks.outputs import described
from zeropoint.training import randomness
from zeropoint.training.labels import check_data, check_labels
from zeropoint.training.task import OwnLoss


def check_training(
    program: Program,
    teacher: Program | None,
    train: Loader,
    validation: Loader | None,
    loss: OwnLoss | None,
) -> None:
    """Raises InputError for data, a ``teacher`` or a user's ``loss`` that do not fit the ``program``.

    The random states are as before.
    """
    train = flattened(train, program.signature, "the training data")
    validation = (
        None if validation is None else flattened(validation, program.signature, "the validation data")
    )
    with randomness.kept():
        first = split(first_batch(train, "training"))
        check_inputs(program.module, first.inputs, "the first batch of the training data")
        is_classifier = loss is None and classifies(program, train)
        classes = program.flat(*program.example_inputs)[0].shape[-1] if is_classifier else None
        check_data(train, classes, labelled=is_classifier)
        if loss is None and not is_classifier:
            _check_guide(teacher, first.targets)
        _check_first(program, first, "the training data", classes, loss)
        if validation is not None:
            held_out = split(first_batch(validation, "validation"))
            _check_first(program, held_out, "the validation data", classes, loss)
        if teacher is not None and teacher is not program:
            _check_teacher(program, teacher, first.inputs)


def _check_guide(teacher: Program | None, targets: Any) -> None:
    """Raises InputError where nothing says what to train towards, and warns of targets that are not read."""
    if teacher is None:
        raise InputError(
            "the training data has no class labels, and there is no float model to learn from; give the"
            " float model as the teacher, or a loss"
        )
    if targets is not None:
        warnings.warn(
            InputWarning(
                f"the targets are {described(targets)}, no class numbers, and are not read: the training is"
                " towards the float model's outputs; give a loss (--loss) to train by them"
            ),
            stacklevel=4,
        )


def _check_first(
    program: Program, batch: FlatBatch, where: str, classes: int | None, loss: OwnLoss | None
) -> None:
    """Raises InputError if a first batch does not fit the model or the classes, or the loss fails on it."""
    check_inputs(program.module, batch.inputs, f"the first batch of {where}")
    if classes is not None:
        if batch.targets is None:
            raise InputError(f"{where} has no labels; give batches of (inputs, labels)")
        check_labels(batch.targets, classes, where, rows=len(program.flat(*batch.inputs)[0]))
    if loss is not None:
        try_loss(program, loss, batch, f"the first batch of {where}")


def try_loss(program: Program, loss: OwnLoss, batch: FlatBatch, where: str) -> None:
    """Raises InputError if a user's loss fails on a batch, or gives no finite number with a gradient."""
    outputs = [
        one.requires_grad_() if one.is_floating_point() else one for one in program.flat(*batch.inputs)
    ]
    try:
        with torch.enable_grad():
            value: Any = loss(program.signature.nested(outputs), batch.targets)
    except Exception as error:
        raise InputError(f"the loss fails on {where}: {type(error).__name__}: {first_line(error)}") from error
    is_number = isinstance(value, Tensor) and value.numel() == 1
    if not is_number or not value.isfinite():
        shown = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        shown = str(value.item()) if is_number else shown
        raise InputError(f"the loss gives {shown} on {where}; give one finite number, the batch's mean")
    if not value.requires_grad:
        raise InputError(
            f"the loss has no gradient on {where}; compute it from the outputs without detach, item or argmax"
        )


def _check_teacher(program: Program, teacher: Program, inputs: tuple[Tensor, ...]) -> None:
    """Raises InputError if a teacher takes other inputs, or gives outputs of other shapes."""
    check_inputs(teacher.module, inputs, "to the teacher, the first batch of the training data")
    own, taught = ([tuple(one.shape) for one in each.flat(*inputs)] for each in (program, teacher))
    if own != taught:
        shown = [", ".join(map(str, shapes)) for shapes in (taught, own)]
        raise InputError(
            f"the teacher gives {shown[0]} and the model {shown[1]}; give a teacher of the same outputs"
        )
