"""Quantization-aware training: fine-tuning the statically quantized graph with its quantizers in it.

Weights, biases, step sizes and offsets learn together, from labels and from the float network.
"""

import dataclasses
import operator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule

from zeropoint.data.batches import Loader, split
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.graph.quantizers import quantizers
from zeropoint.methods.method import Job, run, step
from zeropoint.methods.static import STATIC
from zeropoint.numerics.scheme import dequantize
from zeropoint.passes.blocks import without_quantizers
from zeropoint.passes.fold import fold_batch_norms
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
from zeropoint.training.loop import Loss, Task, cross_entropy, train

# Learning rates in steps of the grid. After 10 epochs ResNet-20 agrees with float, on images not trained on:
# at W8A8 on 99.4% at 0.003 and 99.65% at 0.0003, at W4A4 on 97.65% at 0.003 and 97.35% at 0.001, at W2A8 on
# 91.65% at 0.03, 91.7% at 0.01 and 85.7% at 0.09.
RATE, LOW_BIT_RATE = 0.003, 0.03
TEMPERATURE = 2.0
JUDGED = 1000  # rows of training data that tell how good the teacher is
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
) -> Program:
    """The quantized ``start`` after training, by labels and by the float ``teacher`` if there is one."""
    recipe = options.training
    if recipe.learning_rate is None:
        rate = LOW_BIT_RATE if start.weight_bits < 4 else RATE
        recipe = dataclasses.replace(recipe, learning_rate=rate)
    module, places = learnable(start, offsets=True, step_sizes=options.step_sizes)
    share = 0.0 if teacher is None else _share(teacher, options, train_data)
    guide = teaching(teacher) if teacher is not None and share else None
    paired = pairings(start.module, start.processor)

    def keep() -> None:
        keep_positive(module, places)
        keep_within_limits(module, places, paired)

    task = Task(
        module,
        cross_entropy if guide is None else distillation(guide, share),
        parameter_groups(module, places, recipe.learning_rate or RATE, recipe.weight_decay),
        keep,
        lambda: _blame(module, places),
        guide,
    )
    # What a resumption may change: how often checkpoints are saved and, in a folder, the number of epochs.
    epochs = 1 if folder else recipe.epochs
    same = dataclasses.replace(options, training=dataclasses.replace(recipe, minutes=1.0, epochs=epochs))
    of = teacher or start, start.target, same, operator.length_hint(train_data)
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


def _share(teacher: Program, options: Options, train_data: Loader) -> float:
    """Distillation's part of the loss: by default that of the data's first rows that the teacher gets right.

    Labels add nothing to a teacher that predicts them, and an inaccurate teacher would mislead.
    """
    if options.distillation is not None:
        return options.distillation
    right, rows = 0, 0
    with randomness.kept():
        randomness.begin(options.training.seed, 0, train_data)
        for batch in train_data:
            inputs, labels = split(batch)
            if labels is None:
                break
            (logits, *_) = teacher.flat(*inputs)
            right, rows = right + int((logits.argmax(1) == labels).sum()), rows + len(labels)
            if rows >= JUDGED:
                break
    return right / max(rows, 1)


def teaching(teacher: Program) -> GraphModule:
    """The teacher's float network, with parameters of its own that nothing trains."""
    module = without_quantizers(fold_batch_norms(teacher))
    fx.own_parameters(module)
    return module.requires_grad_(False)


def distillation(teacher: GraphModule, share: float) -> Loss:
    """Cross-entropy of the labels, and for ``share`` of the loss of the softened outputs of ``teacher``.

    Hinton et al. 2015 (arXiv 1503.02531), section 2: the second with the square of the temperature.
    """

    def loss(inputs: tuple[Tensor, ...], logits: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            (wanted, *_) = flat_tensors(teacher(*inputs))
        soft = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, 1),
            F.log_softmax(wanted / TEMPERATURE, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - share) * F.cross_entropy(logits, labels) + share * TEMPERATURE**2 * soft

    return loss


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
        trained = fine_tuned(start, program, first, job.train, job.validation, kept, apart)
        program = dataclasses.replace(program, module=_of_grid_weights(trained))
    return run(STATIC, program, dataclasses.replace(job, float32=program))


@step("train")
def fine_tune(program: Program, job: Job) -> Program:
    """Trained on labelled data with its quantizers, beside the float network as a teacher.

    The epoch with the best accuracy on ``validation`` is kept; without such data, the last one.
    """
    options = _stages(job.options)[1] if _has_stages(job.options) else job.options
    data = job.train, job.validation
    return fine_tuned(program, job.float32, options, *data, job.checkpoint, job.folder)


QAT = (begin_with_static, fine_tune)
