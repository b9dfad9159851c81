"""Learnable quantizers: step sizes and offsets as parameters to train, beside weights and biases.

Weights count steps of their grid, and step sizes what they were at first. Adam moves every number of a
parameter by about as much, whatever its size, and channels of a network with folded batch norms differ in
size a hundred times: what is a small step for one would scatter the weights of another over their grid.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.moves import before_moves
from zeropoint.graph.operators import aten
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, insert_activation, insert_weight, quantizers
from zeropoint.numerics.learned import LSQ, fake_quantize_learned
from zeropoint.numerics.scheme import Scheme, per_channel_shape
from zeropoint.targets import saturation
from zeropoint.torch_private.tensors import clamp_min_

LEAST = 1e-8  # the smallest step size, relative to its start
# Rates beside that of weights: of step sizes, of biases in their own sizes, and of zero points.
STEP_RATE, BIAS_RATE, OFFSET_RATE = 0.1, 0.03, 1.0
UNIT = "__unit"  # suffix of a parameter's name: the unit it counts in


@dataclasses.dataclass(frozen=True)
class Learnable:
    """A learnable quantizer in the graph, and the quantizer it stands for.

    ``scale`` and ``zero_point`` are the names of its parameters, the latter that of a buffer where it stays;
    the scale's is a multiple of what it was before.
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
    integers: after a ReLU zero is the least value. ``step_sizes`` of activations are those of ``learned``.
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
    module: GraphModule,
    places: list[Learnable],
    rate: float,
    weight_decay: float = 0.0,
    weights: bool = True,
) -> list[dict[str, Any]]:
    """Every parameter with a learning rate for Adam, which moves a parameter by about its rate in a step.

    For weights that is ``rate`` steps of their grid: few bits need larger moves than many. Nothing else is
    decayed than weights. Without ``weights`` those that are quantized are not among them.
    """
    steps, offsets = {place.scale for place in places}, {place.zero_point for place in places}
    grids = {str(place.before.source.target) for place in places if place.before.is_weight}
    groups: dict[tuple[float, float], list[Tensor]] = {}  # few: an optimizer goes through a group at once
    for name, parameter in module.named_parameters():
        if name in steps:
            own = STEP_RATE
        elif name in offsets:
            own = OFFSET_RATE
        elif name in grids:
            if not weights:
                continue
            own = 1.0
        else:
            own = BIAS_RATE * float(parameter.detach().abs().mean())
        decay = weight_decay if name in grids else 0.0
        groups.setdefault((max(rate * own, 1e-12), decay), []).append(parameter)
    return [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]


def keep_positive(module: GraphModule, places: list[Learnable]) -> None:
    """Puts step sizes that a descent has taken to zero or beyond back to LEAST."""
    with torch.no_grad():
        clamp_min_([module.get_parameter(name) for name in {one.scale for one in places}], LEAST)


def keep_within_limits(
    module: GraphModule, places: list[Learnable], paired: Mapping[str, saturation.Pairing]
) -> None:
    """Puts 8-bit weights that overflow when two products are added back; ``paired`` by the weight's name."""
    with torch.no_grad():
        for place in places:
            pairing = paired.get(str(place.before.source.target)) if place.before.is_weight else None
            if pairing is not None and place.before.scheme.bits == 8:
                weight = module.get_parameter(str(place.before.source.target))
                shape = per_channel_shape(place.before.scale, weight.dim(), place.before.axis)
                ratio = module.get_parameter(place.scale).reshape(shape)
                levels = weight / ratio  # both count steps of the grid as it was before
                limited = saturation.within_limits(levels, pairing)
                if limited is not levels:
                    weight.copy_(limited * ratio)


def make_learnable(
    module: GraphModule, quantizer: Quantizer, program: Program, offsets: bool = False, step_sizes: str = LSQ
) -> Learnable:
    """Puts a learnable quantizer in the place of a plain one."""
    graph, scheme = module.graph, quantizer.scheme
    name = f"quantizers.{quantizer.node.name}"
    is_affine = not (quantizer.is_weight or scheme.symmetric) and int(quantizer.zero_point) != scheme.qmin
    source = quantizer.source
    if quantizer.is_weight:
        sizes = [1] * fx.tensor_of(module, source).dim()
        sizes[quantizer.axis] = -1
        source = _count(module, source, quantizer.scale.reshape(sizes))
    with graph.inserting_before(quantizer.node):
        scale = graph.get_attr(fx.set_tensor(module, f"{name}.scale", quantizer.scale))
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
        arguments = (source, scale, zero_point, axis, scheme.qmin, scheme.qmax, factor, kind)
        node = graph.call_function(fake_quantize_learned, arguments)
    node.meta = dict(quantizer.node.meta)
    quantizer.node.replace_all_uses_with(node)
    graph.erase_node(quantizer.node)
    _count(module, scale, quantizer.scale.clone())
    module.recompile()
    return Learnable(node, f"{name}.scale", f"{name}.zero_point", quantizer)


def _count(module: GraphModule, node: Node, unit: Tensor) -> Node:
    """Makes the tensor of a ``get_attr`` node count ``unit``; the product is what its users get."""
    name = str(node.target)
    fx.set_tensor(module, name, fx.tensor_of(module, node) / unit, trainable=True)
    with module.graph.inserting_after(node):
        size = module.graph.get_attr(fx.set_tensor(module, f"{name}{UNIT}", unit))
    with module.graph.inserting_after(size):
        product = module.graph.call_function(aten.mul.Tensor, (node, size))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
    return product


def _sum_up(module: GraphModule, name: str) -> Tensor:
    """What a parameter counts, times its unit."""
    return module.get_parameter(name).detach() * module.get_buffer(f"{name}{UNIT}")


def _share_grids(places: list[Learnable]) -> list[Learnable]:
    """One grid for all quantizers of a value, before and after moves."""
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
    before, (source, _, zero_point_node) = place.before, place.node.all_input_nodes
    scale = _sum_up(module, place.scale).abs().clamp(min=LEAST)
    zero_point = fx.tensor_of(module, zero_point_node)
    zero_point = zero_point.round().clamp(before.scheme.qmin, before.scheme.qmax).int()
    if before.is_weight:
        weight = before.source
        fx.set_tensor(module, str(weight.target), _sum_up(module, str(weight.target)), trainable=True)
        source.replace_all_uses_with(weight)
        module.graph.erase_node(source)
        quantizer = insert_weight(module, weight, scale, zero_point, before.scheme, before.axis)
        place.node.replace_all_uses_with(quantizer)
    else:
        quantizer = insert_activation(module, source, scale, zero_point, before.scheme)
        place.node.replace_all_uses_with(quantizer)
    module.graph.erase_node(place.node)
    module.recompile()
