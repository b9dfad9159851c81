"""Verify: whether an artefact computes what its Program does, seen once as it is made."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.fx import Node

from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.attention import ATTENTION, arguments_of
from zeropoint.graph.program import Program, at_batch
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.sqnr import sqnr_db
from zeropoint.targets.processor import Processor, mismatch

# The least SQNR of an engine's outputs to the simulation, in dB, by the bits of the Program. Engines round
# sums in another order, so a value may fall on the next step of its grid: 35 dB and more at 8 bits, and 20 in
# deep networks at 4. What was wrong had 1.5 to 6.
FLOAT, BFLOAT16, INT8, FEW_BITS = 40.0, 15.0, 12.0, 8.0
# A quantized Program of outputs close to those with float activations is held to more: below CLEAR, the
# engine's may not be LOSS farther from these than the simulation's. Learned queries that OpenVINO got wrong
# had 14 of 44 dB.
CLEAR, LOSS = 40.0, 6.0
ANY_BATCH = ("openvino", "onnxruntime")  # engines whose artefacts have kernels for batches of any size
REPEATED = 60.0  # the least SQNR in dB of a second call to the first, on the same inputs


class WrongError(InputError):
    """An artefact computes something else than its Program."""


def check_lowering(
    program: Program,
    run: Callable[..., tuple[Tensor, ...]],
    engine: str,
    batch: int,
    here: Processor | None = None,
) -> None:
    """Runs the Program and its artefact on the example, at a batch of this size, and compares the outputs.

    Of engines that take any batch, one of two items is compared, too, where weights are integers. The
    artefact runs twice: one that writes into its own constants is right at first.

    A Program that was made for another kind of processor than ``here``, by default this one, is left out,
    since it overflows here, of which there is a warning. Of one that draws random numbers only the shapes
    are compared, and that an artefact draws, too.

    Raises WrongError for outputs of other number or shape, NaN that the simulation has not, and values that
    differ more than rounding explains, or from one call to the next.
    """
    sizes = [batch]
    if batch == 1 and program.dynamic_batch and engine in ANY_BATCH and program.weight_bits < 16:
        sizes.append(2)  # integer kernels of several items may be wrong alone
    for size in sizes:
        _check_at(program, run, engine, size, is_fit=not mismatch(program.processor, here))


def _check_at(
    program: Program, run: Callable[..., tuple[Tensor, ...]], engine: str, batch: int, *, is_fit: bool
) -> None:
    inputs = at_batch(program, batch).example_inputs
    found = [tensor.clone() for tensor in run(*inputs)]
    if not is_fit:
        return
    again, is_random = run(*inputs), _is_random(program)
    for number, (one, other) in enumerate(zip(found, again, strict=True), 1):
        if is_random or not one.is_floating_point():
            continue
        if reason := _difference(one, other, REPEATED, "the first"):
            raise WrongError(
                f"{engine} gives other outputs when it is called again: output {number} {reason};"
                " take another engine"
            )
    example = at_batch(program, 1).example_inputs  # of which the batch is copies
    wanted = program.flat(*example)
    if len(wanted) != len(found):
        raise WrongError(
            f"{engine} gives {len(found)} outputs where the Program has {len(wanted)}; take another engine"
        )
    outputs = zip(wanted, found, program.batch.outputs, strict=True)
    for number, (one, whole, axis) in enumerate(outputs, 1):
        if whole.dim() != one.dim():
            axis = None  # of another rank, which is told below
        items = [whole] if axis is None else whole.tensor_split(batch, axis)
        for item in items:
            if one.shape != item.shape:
                raise WrongError(
                    f"{engine} gives output {number} of shape {tuple(item.shape)} where the Program has"
                    f" {tuple(one.shape)}; take another engine"
                )
        if is_random or not one.is_floating_point():
            continue
        other = min((item.to(one.dtype) for item in items), key=partial(_nearness, one))
        if reason := _difference(one, other, least(program), "the simulation") or _farther(
            program, number, one, other
        ):
            raise WrongError(
                f"{engine} computes something else than the Program: output {number} {reason};"
                " take another engine, or keep the layers before it float with --skip"
            )
    if is_random and _are_equal(found, again) and not _are_equal(wanted, program.flat(*example)):
        raise WrongError(
            f"{engine} draws no random numbers where the Program does, as in a dropout that stays on;"
            " take another engine"
        )


def _are_equal(some: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def least(program: Program) -> float:
    """The SQNR in dB that an engine's outputs have at least to the simulation of the Program."""
    bits = min(program.weight_bits, program.activation_bits)
    if bits >= 32:
        return FLOAT
    return BFLOAT16 if bits == 16 else INT8 if bits >= 8 else FEW_BITS


def _farther(program: Program, number: int, wanted: Tensor, found: Tensor) -> str | None:
    """Whether a quantized output is farther from that of float activations than the simulation's."""
    finite = wanted.isfinite() & found.isfinite()
    if program.weight_bits >= 16 or sqnr_db(wanted[finite], found[finite]) >= CLEAR:
        return None
    module = fx.copy(program.module)
    for one in list(quantizers(module)):
        if not one.is_weight:
            one.node.replace_all_uses_with(one.source)
    fx.remove_unused(module)
    close = replace(program, module=module).flat(*at_batch(program, 1).example_inputs)[number - 1]
    own, its = (sqnr_db(close[finite], one[finite]) for one in (wanted, found))
    if its >= own - LOSS:
        return None
    return f"has an SQNR of {its:.1f} dB, where the simulation has {own:.1f}"


def _nearness(wanted: Tensor, found: Tensor) -> float:
    """The SQNR in dB of the finite values; that of nothing where NaN are in other places."""
    if not torch.equal(wanted.isnan(), found.isnan()):
        return -math.inf
    finite = wanted.isfinite() & found.isfinite()
    return sqnr_db(wanted[finite], found[finite])


def _difference(wanted: Tensor, found: Tensor, least_db: float, whose: str) -> str | None:
    difference = _nearness(wanted, found)
    if difference == -math.inf:
        return "has NaN in other places"
    return None if difference >= least_db else f"has an SQNR of {difference:.1f} dB to {whose}"


def _is_random(program: Program) -> bool:
    return any(map(_draws, program.module.graph.nodes))


def _draws(node: Node) -> bool:
    """Whether an operator draws random numbers; attention and recurrent ones do only for their dropout."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    arguments = arguments_of(node)
    return bool(arguments["dropout_p"] if node.target is ATTENTION else arguments.get("train", True))
