"""Quantization-aware training: fine-tuning the statically quantized graph with its quantizers in it.

Weights, biases, step sizes and offsets learn together, from labels and from the float network.
"""

import dataclasses
import operator
from pathlib import Path

from torch.fx import GraphModule

from zeropoint.data.batches import Loader
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.methods.losses import loss_of
from zeropoint.methods.method import Job, run, step
from zeropoint.methods.static import STATIC
from zeropoint.models.userfile import identity
from zeropoint.numerics.scheme import dequantize
from zeropoint.passes.blocks import without_quantizers
from zeropoint.passes.integer_bias import round_biases
from zeropoint.passes.learnable import (
    LEAST,
    Learnable,
    constant,
    keep_positive,
    keep_within_limits,
    learnable,
    parameter_groups,
)
from zeropoint.passes.pairs import within_limits
from zeropoint.targets.options import Options
from zeropoint.targets.saturation import pairings
from zeropoint.training import randomness
from zeropoint.training.checkpoint import checkpoint
from zeropoint.training.folder import Folder
from zeropoint.training.loop import train
from zeropoint.training.task import OwnLoss, Task

# Learning rates in steps of the grid. After 10 epochs ResNet-20 agrees with float, on images not trained on:
# at W8A8 on 99.4% at 0.003 and 99.65% at 0.0003, at W4A4 on 97.65% at 0.003 and 97.35% at 0.001, at W2A8 on
# 91.65% at 0.03, 91.7% at 0.01 and 85.7% at 0.09.
RATE, LOW_BIT_RATE = 0.003, 0.03
GONE = 1e3  # times what a step size was at first: beyond, or below its inverse, it has gone bad


def _of_grid_weights(program: Program) -> GraphModule:
    """The float network of a trained Program's quantized weights.

    What was trained below them drifts within half a step of the grid, which costs nothing until it is read.
    """
    module = fx.copy(program.module)
    for one in [one for one in quantizers(module) if one.is_weight]:
        weight = dequantize(one.integers(module), one.scale, one.zero_point, one.axis)
        fx.set_tensor(module, str(one.source.target), weight, trainable=True)
    return without_quantizers(dataclasses.replace(program, module=module))


def _stages(options: Options) -> tuple[Options, Options]:
    """The first third of the epochs at twice the bits of weights, and the rest."""
    epochs = options.training.epochs
    most = -(-epochs // 3)
    first = dataclasses.replace(options.training, epochs=most)
    rest = dataclasses.replace(options.training, epochs=max(epochs - most, 1))
    twice = min(2 * options.weight_bits, 8)
    return (
        dataclasses.replace(options, training=first, weight_bits=twice),
        dataclasses.replace(options, training=rest),
    )


def _has_stages(options: Options) -> bool:
    return options.progressive and options.weight_bits < 8


def fine_tuned(
    start: Program,
    teacher: Program | None,
    options: Options,
    train_data: Loader,
    validation: Loader | None,
    path: Path | None = None,
    folder: Folder | None = None,
    loss: OwnLoss | None = None,
) -> Program:
    """The quantized ``start`` after training, by labels and by the float ``teacher`` if there is one.

    Targets that are no class numbers are for the user's ``loss``; without one the teacher's outputs are.
    """
    recipe = options.training
    if recipe.learning_rate is None:
        rate = LOW_BIT_RATE if start.weight_bits < 4 else RATE
        recipe = dataclasses.replace(recipe, learning_rate=rate)
    module, places = learnable(start, offsets=True, step_sizes=options.step_sizes)
    value, guide, is_classifier = loss_of(start, teacher, train_data, options, loss)
    paired = pairings(start.module, start.processor)

    def keep() -> None:
        keep_positive(module, places)
        keep_within_limits(module, places, paired)

    task = Task(
        module,
        value,
        parameter_groups(module, places, recipe.learning_rate or RATE, recipe.weight_decay),
        keep,
        lambda: _blame(module, places),
        guide,
        is_classifier,
    )
    # What a resumption may change: how often checkpoints are saved and, in a folder, the number of epochs.
    epochs = 1 if folder else recipe.epochs
    same = dataclasses.replace(options, training=dataclasses.replace(recipe, minutes=1.0, epochs=epochs))
    data = operator.length_hint(train_data), randomness.fingerprint(recipe.seed, train_data)
    of = teacher or start, start.target, same, data, identity(loss)
    kept = checkpoint(folder.checkpoint if folder else path, *of, expected=folder is not None)
    train(
        task,
        train_data,
        validation,
        recipe,
        checkpoint=kept,
        folder=folder.path if folder else None,
    )
    constant(module, places)
    trained = within_limits(dataclasses.replace(start, module=module))
    return dataclasses.replace(round_biases(trained), method="qat")


def _blame(module: GraphModule, places: list[Learnable]) -> str:
    """The layer whose step size is no longer one, if there is such."""
    state = module.state_dict()
    for place in places:
        then, ratio = place.before.scale, state[place.scale].cpu()
        now = ratio * then
        bad = ~(now.isfinite() & (now > LEAST) & (ratio < GONE) & (ratio > 1 / GONE))
        if bad.any():
            which = int(bad.nonzero()[0, 0])
            kind = "weights" if place.before.is_weight else "activations"
            return (
                f"the step size of the {kind} of {fx.module_name(place.before.source)}"
                f" went from {float(then[which]):.2g} to {float(now[which]):.2g}"
            )
    return ""


@step("calibration", "train", integers=("weights", "activations"))
def begin_with_static(program: Program, job: Job) -> Program:
    """Static quantization, with ``options.progressive`` of weights trained at twice the bits before."""
    if _has_stages(job.options):
        first, _ = _stages(job.options)
        kept = None if job.checkpoint is None else Path(f"{job.checkpoint}.first")
        apart = None if job.folder is None else Folder(job.folder.path / "first")
        start = run(STATIC, program, dataclasses.replace(job, options=first))
        trained = fine_tuned(start, program, first, job.train, job.validation, kept, apart, job.loss)
        program = dataclasses.replace(program, module=_of_grid_weights(trained))
    return run(STATIC, program, dataclasses.replace(job, float32=program))


@step("train")
def fine_tune(program: Program, job: Job) -> Program:
    """Trained on the training data with its quantizers, beside the float network as a teacher.

    The epoch with the best accuracy on ``validation`` is kept; without such data, the last one.
    """
    options = _stages(job.options)[1] if _has_stages(job.options) else job.options
    data = job.train, job.validation
    return fine_tuned(program, job.float32, options, *data, job.checkpoint, job.folder, job.loss)


QAT = (begin_with_static, fine_tune)
