"""Distillation: step sizes, biases and, of few bits, weights, taught by the float network without labels.

What is matched is the outputs (Hinton et al. 2015, arXiv 1503.02531) and, as in block-wise reconstruction
(Li et al. 2021, "BRECQ", arXiv 2102.05426), what leaves the blocks, all of them at once: a few hundred inputs
say far more about those than about the outputs alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from zeropoint.data.batches import inputs_of
from zeropoint.data.held_out import EVERY
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.macs import work
from zeropoint.graph.operators import weighted
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.memory import keeping_freed
from zeropoint.passes.blocks import block_ends, relative_error, without_quantizers
from zeropoint.passes.descent import BATCH, Descent, items_a_step
from zeropoint.passes.learnable import constant, learnable, parameter_groups
from zeropoint.progress import track
from zeropoint.torch_private.trees import tree_leaves
from zeropoint.training.checkpoint import checkpoint

MEMORY = 1 << 29  # bytes of inputs held in memory, at most about
JUDGED = 25  # steps after which the Program is judged
# Times the start's error that another state has to come below: ResNet-20 at W8A8 loses 3% of it in 250 steps,
# and its outputs on unseen items are 0.4 dB worse for it.
WORTH = 0.95
MATCHED = 12  # block outputs that are matched, at most, beside the outputs
MIXED = 0.5  # share of another item in one, at most: without mixing the network memorizes the items


@dataclasses.dataclass(frozen=True)
class Lessons:
    """Whether weights are taught, too, and in how many steps: those of ``work``, from ``least`` to ``most``.

    ``rate`` is what Adam moves a weight by in a step, at first, in steps of its grid; other parameters have
    theirs beside that. ``work`` counts the multiply-accumulates of the float network. ``patience`` is the
    share of the steps without a better state after which the rest is left out.
    """

    weights: bool
    rate: float
    least: int
    most: int
    work: int
    patience: float


# Below 4 bits most is to be regained: ResNet-20 at W2A8 agrees on 92% after 1,600 steps, on 90% after 400.
# From 4 bits on weights lose more by leaving their fitted rounding than they learn: the error on items held
# out goes from 0.0066 to 0.0090 in 100 steps of ResNet-20 at W4A8, and from 0.056 to 0.085 of MobileNetV2,
# where step sizes and biases alone take it to 0.051. Often they gain nothing: of ten judgements on ResNet-20
# at W8A8 and W4A8 none came below the start, at W4A4 the fourth was the best. Weights of few bits may come
# below it in the last steps alone, as rates fall.
FEW_BITS = Lessons(weights=True, rate=0.03, least=200, most=2000, work=1 << 41, patience=1.0)
MANY_BITS = Lessons(weights=False, rate=0.1, least=50, most=250, work=1 << 39, patience=0.5)
# Weights that layers share are fitted to what the float network gives them, so there is more to learn.
# ALBERT at W4A8 has 24.7 dB as fitted, 25.3 after 200 steps of the rest alone, and 26.4 with weights taught
# (AMD EPYC with VNNI, December 2026).
SHARED = Lessons(weights=True, rate=0.03, least=200, most=1000, work=1 << 40, patience=0.5)


@keeping_freed()
def distil(
    start: Program,
    unfitted: Program,
    calibration: Iterable[Any],
    seed: int = 0,
    path: Path | None = None,
) -> Program:
    """``start`` after gradient steps, or as many of them as held-out data says; none where all harm.

    ``unfitted`` has the same quantizers around the weights of the float network, which without them is the
    teacher. ``start`` comes back where there are too few items to hold some out. ``path`` is a file to keep a
    checkpoint in: from one of the same Programs, items and seed it goes on, and gives what it would have
    given without the interruption, to the bit.
    """
    if not start.dynamic_batch:
        return start
    inputs = _items(calibration)
    held = list(range(EVERY - 1, len(inputs[0]), EVERY))
    if not held:
        return start
    fits = torch.tensor(sorted(set(range(len(inputs[0]))) - set(held)))
    batch_size = items_a_step(start.module)
    lessons = _lessons(start)
    steps = max(lessons.least, min(lessons.most, lessons.work // (work(unfitted) * batch_size)))
    student, places = learnable(start)
    teacher = without_quantizers(unfitted)
    descent = Descent(parameter_groups(student, places, lessons.rate, weights=lessons.weights), steps)
    generator = torch.Generator().manual_seed(seed)
    learning: dict[str, Any] = {"student": student, "descent": descent}
    first, best, best_state, lowest, lowest_step = 0, math.inf, None, math.inf, 0
    file = checkpoint(path, start, unfitted, *inputs, seed, batch_size, steps)
    if earlier := file.load():
        first, best = earlier["step"], earlier["best"]
        best_state = earlier["best_state"]
        lowest, lowest_step = earlier.get("lowest", (best, first))  # which earlier versions did not keep
        generator.set_state(earlier["generator"])
        for name, part in learning.items():
            part.load_state_dict(earlier[name])
    shown = functools.partial(without_hidden, start.signature.input_names)
    loss_of = functools.partial(_loss, student, teacher, _taps(teacher), shown)
    with file.tells("distilling"):
        for step in track(range(first, steps + 1), "distilling", done=first):
            is_last = step == steps
            if step % JUDGED == 0 or is_last:
                error = _mean_loss(loss_of, [tensor[held] for tensor in inputs], batch_size)
                if error < lowest:  # if it is not worth taking yet, later steps, of lower rates, may be
                    lowest, lowest_step = error, step
                if error < best:
                    best = error if step else WORTH * error
                    best_state = {name: value.clone() for name, value in student.state_dict().items()}
                state = {"step": step, "best": best, "best_state": best_state}
                state["lowest"] = (lowest, lowest_step)
                state |= {name: part.state_dict() for name, part in learning.items()}
                file.save(state | {"generator": generator.get_state()}, f"step {step} of {steps}")
                is_last = is_last or step - lowest_step > lessons.patience * steps
            if is_last:
                break
            rows = fits[torch.randperm(len(fits), generator=generator)[:batch_size]]
            loss = loss_of(_mixed([tensor[rows] for tensor in inputs], generator))
            if not descent.step(loss):
                break
    if best_state is None:
        raise InputError("the network's outputs are NaN or infinite on the calibration data; fix the data")
    student.load_state_dict(best_state)
    constant(student, places)
    return dataclasses.replace(start, module=student)


def _lessons(start: Program) -> Lessons:
    if start.weight_bits < 4:
        return FEW_BITS
    weights = [quantizer.node for quantizer in quantizers(start.module) if quantizer.is_weight]
    is_shared = any(len([user for user in node.users if weighted(user)]) > 1 for node in weights)
    return SHARED if is_shared and start.weight_bits < 8 else MANY_BITS


def _items(calibration: Iterable[Any]) -> tuple[Tensor, ...]:
    """The first inputs of the calibration data, as many as MEMORY holds; those of the first one's sizes."""
    batches: list[tuple[Tensor, ...]] = []
    room = MEMORY
    for inputs in inputs_of(calibration, BATCH):
        if batches and [t.shape[1:] for t in inputs] != [t.shape[1:] for t in batches[0]]:
            continue
        batches.append(inputs)
        room -= sum(tensor.numel() * tensor.element_size() for tensor in inputs)
        if room < 0:
            break
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def _mixed(inputs: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Each item with some of the one before it (Zhang et al. 2018, "mixup", arXiv 1710.09412, eq. 1).

    Their labels need no mixing here: the teacher sees the same (Beyer et al. 2022, arXiv 2106.05237). What is
    no numbers, such as tokens, stays.
    """
    if not all(tensor.is_floating_point() for tensor in inputs):
        return inputs
    share = torch.rand(len(inputs[0]), generator=generator) * MIXED
    shares = [share.reshape(-1, *[1] * (tensor.dim() - 1)).to(tensor) for tensor in inputs]
    return [t.lerp(t.roll(1, 0), share) for t, share in zip(inputs, shares, strict=True)]


def _taps(teacher: GraphModule) -> list[str]:
    """The block outputs, evenly spaced, that are matched."""
    ends = block_ends(teacher)
    return ends[:: -(-len(ends) // MATCHED)] if ends else []


def _values(
    module: GraphModule, inputs: list[Tensor], blocks: list[str]
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and what leaves the blocks."""
    ends: dict[str, Tensor] = {}
    watching = fx.Watching(module, blocks, lambda node, value: ends.update({node.name: value}))
    outputs = tree_leaves(watching.run(*inputs))
    tensors = [output for output in outputs if isinstance(output, Tensor) and output.is_floating_point()]
    return tensors, [ends[name] for name in blocks]


def _loss(
    student: GraphModule,
    teacher: GraphModule,
    blocks: list[str],
    shown: Callable[[Sequence[Tensor], list[Tensor]], list[Tensor]],
    batch: list[Tensor],
) -> Tensor:
    """The squared errors relative to the squares, on a batch and without padding.

    The mean over the outputs, plus that over the blocks.
    """
    with torch.no_grad():
        wanted = [shown(batch, part) for part in _values(teacher, batch, blocks)]
    found = [shown(batch, part) for part in _values(student, batch, blocks)]
    return relative_error(found[0], wanted[0]) + relative_error(found[1], wanted[1])


def _mean_loss(loss_of: Callable[[list[Tensor]], Tensor], inputs: list[Tensor], batch_size: int) -> float:
    """The mean over all items, computed batch by batch."""
    with torch.no_grad():
        batches = zip(*(tensor.split(batch_size) for tensor in inputs), strict=True)
        losses = [(float(loss_of(list(batch))), len(batch[0])) for batch in batches]
    return sum(loss * count for loss, count in losses) / len(inputs[0])
