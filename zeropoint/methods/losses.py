"""Losses of quantization-aware training: of class labels, of the float outputs, or the user's own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule

from zeropoint.data.batches import Loader, split
from zeropoint.graph import edits as fx
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.passes.blocks import without_quantizers
from zeropoint.passes.fold import fold_affine
from zeropoint.targets.options import Options
from zeropoint.training import randomness
from zeropoint.training.task import Loss, OwnLoss, cross_entropy

TEMPERATURE = 2.0
JUDGED = 1000  # rows of training data that tell how good the teacher is


def loss_of(
    start: Program,
    teacher: Program | None,
    data: Loader,
    options: Options,
    own: OwnLoss | None,
) -> tuple[Loss, GraphModule | None, bool]:
    """The loss of a training, the network that it runs, and whether it is a classifier's.

    With class numbers as targets it is cross-entropy beside the softened outputs of the float ``teacher``,
    which has a ``share`` in it, by default the rows that it gets right. Without, the outputs shall be those
    of the teacher. With a loss of the user's ``own`` it is that, and for a ``share`` the teacher's outputs.
    The share is ``options.distillation``.
    """
    if own is None and classifies(start, data):
        share = 0.0 if teacher is None else _share(teacher, options, data)
        guide = teaching(teacher) if teacher is not None and share else None
        return (cross_entropy if guide is None else distillation(guide, share)), guide, True
    share = options.distillation or 0.0
    guide = None if teacher is None or (own and not share) else teaching(teacher)
    if own is None:
        assert guide is not None  # which was checked
        return matching(guide, start.signature.input_names), guide, False
    return _own(start, own, guide, share), guide, False


def classifies(program: Program, data: Loader) -> bool:
    """Whether targets are class numbers (N,), and the first output has a column for each class."""
    with randomness.kept():
        batch = next(iter(data), None)
    if batch is None:
        return True  # which is told
    inputs, targets = split(batch)
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
        return False
    return program.flat(*inputs)[0].dim() == 2


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
    module = without_quantizers(fold_affine(teacher))
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


def matching(teacher: GraphModule, names: tuple[str, ...] = ()) -> Loss:
    """The noise in each output beside the teacher's, over the power of that, averaged over outputs.

    So outputs of unlike size, such as boxes and scores, count alike. What the teacher masks, with -inf, does
    not count, nor do padded positions, by the ``names`` of the inputs.
    """

    def loss(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], _: Any) -> Tensor:
        with torch.no_grad():
            wanted = without_hidden(names, inputs, flat_tensors(teacher(*inputs)))
        noise = []
        for one, other in zip(wanted, without_hidden(names, inputs, outputs), strict=True):
            if one.is_floating_point():
                seen = one.isfinite()
                distance, size = (torch.where(seen, part, 0.0).square().mean() for part in (other - one, one))
                noise.append(distance / size.clamp_min(torch.finfo(one.dtype).tiny))
        return torch.stack(noise).mean()

    return loss


def _own(start: Program, own: OwnLoss, teacher: GraphModule | None, share: float) -> Loss:
    """The user's loss of the model's own structure of outputs, and for a ``share`` the teacher's outputs."""
    match = None if teacher is None else matching(teacher, start.signature.input_names)

    def loss(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], targets: Any) -> Tensor:
        value = own(start.signature.nested(list(outputs)), targets)
        return value if match is None else (1 - share) * value + share * match(inputs, outputs, targets)

    return loss
