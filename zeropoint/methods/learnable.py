"""Learnable quantizers: step sizes and offsets as parameters to train, beside weights and biases."""

import dataclasses
import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from zeropoint import graph as fx
from zeropoint.learned import LSQ, fake_quantize_learned
from zeropoint.placement import before_moves
from zeropoint.program import Program
from zeropoint.quantizers import Quantizer, insert_activation, insert_weight, quantizers
from zeropoint.scheme import Scheme

LEAST = 1e-8  # that a step size may shrink to
# Rates beside that of weights, in steps of their grid: of step sizes and biases in their own sizes, and of
# zero points.
STEP_RATE, BIAS_RATE, OFFSET_RATE = 0.1, 0.03, 1.0


@dataclasses.dataclass(frozen=True)
class Learnable:
    """A learnable quantizer in the graph, and the quantizer it stands for.

    ``scale`` and ``zero_point`` are the names of its parameters, the latter that of a buffer where it stays.
    """

    node: Node
    scale: str
    zero_point: str
    before: Quantizer


def learnable(
    program: Program, *, offsets: bool = False, step_sizes: str = LSQ
) -> tuple[GraphModule, list[Learnable]]:
    """The Program's graph with parameters of its own and learnable quantizers, and where these are.

    With ``offsets`` the zero points of affine activations are learned, too, but those at an end of their
    integers: behind a ReLU zero is the least value. ``step_sizes`` of activations are those of ``learned``.
    """
    module = fx.copy(program.module)
    fx.own_parameters(module)
    places = [make_learnable(module, one, program, offsets, step_sizes) for one in quantizers(module)]
    places = _share_grids(places)
    fx.remove_unused(module)
    return module, places


def constant(module: GraphModule, places: list[Learnable]) -> None:
    """Puts the plain quantizers back, with the step sizes and offsets that were learned."""
    for place in places:
        _make_constant(module, place)
    fx.remove_unused(module)


def parameter_groups(
    module: GraphModule, places: list[Learnable], rate: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Every parameter with a learning rate for Adam, which moves it by about so much in a step.

    For weights that is ``rate`` steps of their grid: folded batch norms give layers weights of very different
    sizes, and few bits need larger moves than many. Nothing else is decayed than weights.
    """
    steps, offsets = {place.scale for place in places}, {place.zero_point for place in places}
    grids = {str(place.before.source.target): place.before for place in places if place.before.is_weight}
    groups = []
    for name, parameter in module.named_parameters():
        size = float(parameter.detach().abs().mean())
        if name in steps:
            own = STEP_RATE * size
        elif name in offsets:
            own = OFFSET_RATE
        elif name in grids:
            own = float(grids[name].scale.mean())
        else:
            own = BIAS_RATE * size
        decay = weight_decay if name in grids else 0.0
        groups.append({"params": [parameter], "lr": max(rate * own, 1e-12), "weight_decay": decay})
    return groups


def keep_positive(module: GraphModule, places: list[Learnable]) -> None:
    """Puts step sizes that a descent has taken to zero or beyond back to LEAST."""
    with torch.no_grad():
        for name in {place.scale for place in places}:
            module.get_parameter(name).clamp_(min=LEAST)


def make_learnable(
    module: GraphModule, quantizer: Quantizer, program: Program, offsets: bool = False, step_sizes: str = LSQ
) -> Learnable:
    """Puts a learnable quantizer in the place of a plain one."""
    graph, scheme = module.graph, quantizer.scheme
    name = f"quantizers.{quantizer.node.name}"
    is_affine = not (quantizer.is_weight or scheme.symmetric) and int(quantizer.zero_point) != scheme.qmin
    with graph.inserting_before(quantizer.node):
        scale = graph.get_attr(
            fx.set_tensor(module, f"{name}.scale", quantizer.scale.clone(), trainable=True)
        )
        zero_point = graph.get_attr(
            fx.set_tensor(
                module,
                f"{name}.zero_point",
                quantizer.zero_point.float(),
                trainable=offsets and is_affine,
            )
        )
        axis = None if scheme.granularity == "per-tensor" else quantizer.axis
        factor = _gradient_factor(quantizer, program)
        kind = LSQ if quantizer.is_weight else step_sizes
        arguments = (quantizer.source, scale, zero_point, axis, scheme.qmin, scheme.qmax, factor, kind)
        node = graph.call_function(fake_quantize_learned, arguments)
    node.meta = dict(quantizer.node.meta)
    quantizer.node.replace_all_uses_with(node)
    graph.erase_node(quantizer.node)
    module.recompile()
    return Learnable(node, f"{name}.scale", f"{name}.zero_point", quantizer)


def _share_grids(places: list[Learnable]) -> list[Learnable]:
    """One grid for all quantizers of a value, before and behind moves."""
    first: dict[tuple[Node, Scheme], Learnable] = {}
    shared = []
    for place in places:
        owner = first.setdefault((before_moves(place.node), place.before.scheme), place)
        for position in (1, 2):
            fx.replace_argument(place.node, position, owner.node.args[position])
        shared.append(dataclasses.replace(place, scale=owner.scale, zero_point=owner.zero_point))
    return shared


def _gradient_factor(quantizer: Quantizer, program: Program) -> float:
    """``1 / sqrt(N * Qp)``: Esser et al. 2020, section 2.2, with N the values that share one step size."""
    shape = fx.item_sizes(quantizer.source)
    values = math.prod(shape)
    if quantizer.is_weight and quantizer.scheme.granularity == "per-channel":
        values //= shape[quantizer.axis]
    elif not quantizer.is_weight and not program.dynamic_batch:
        values //= shape[0]
    return 1.0 / math.sqrt(max(values, 1) * quantizer.scheme.qmax)


def _make_constant(module: GraphModule, place: Learnable) -> None:
    before, (source, *grid) = place.before, place.node.all_input_nodes
    scale, zero_point = (fx.tensor_of(module, part) for part in grid)
    scale = scale.abs().clamp(min=LEAST)
    zero_point = zero_point.round().clamp(before.scheme.qmin, before.scheme.qmax).int()
    if before.is_weight:
        insert_weight(module, source, scale, zero_point, before.scheme, before.axis)
        (weight_quantizer,) = source.users
        place.node.replace_all_uses_with(weight_quantizer)
    else:
        quantizer = insert_activation(module, source, scale, zero_point, before.scheme)
        place.node.replace_all_uses_with(quantizer)
    module.graph.erase_node(place.node)
    module.recompile()
