"""Learnable quantizers: step sizes as parameters to train, beside weights and biases.

LSQ (Esser et al. 2020, "Learned Step Size Quantization"), by ATen's learnable fake-quantize operators. Their
backward pass is that paper's eq. 3, but that the half step beyond either end, which still rounds to it,
counts as inside.
"""

import dataclasses
import math

from torch.fx import GraphModule, Node

from zeropoint import graph as fx
from zeropoint.operators import LEARNABLE_CHANNEL, LEARNABLE_TENSOR
from zeropoint.placement import before_moves
from zeropoint.program import Program
from zeropoint.quantizers import Quantizer, insert_activation, insert_weight, quantizers
from zeropoint.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class Learnable:
    """A learnable quantizer in the graph, the name of its step size, and the quantizer it stands for."""

    node: Node
    scale: str
    before: Quantizer


def learnable(program: Program) -> tuple[GraphModule, list[Learnable]]:
    """The Program's graph with parameters of its own and learnable quantizers, and where these are."""
    module = fx.copy(program.module)
    for name, parameter in list(module.named_parameters()):  # not to train the user's own
        fx.set_tensor(module, name, parameter.detach().clone(), trainable=True)
    places = _share_steps([make_learnable(module, quantizer, program) for quantizer in quantizers(module)])
    fx.remove_unused(module)
    return module, places


def constant(module: GraphModule, places: list[Learnable]) -> None:
    """Puts the plain quantizers back, with the step sizes that were learned."""
    for place in places:
        _make_constant(module, place)
    fx.remove_unused(module)


def make_learnable(module: GraphModule, quantizer: Quantizer, program: Program) -> Learnable:
    """Puts a learnable quantizer in the place of a plain one."""
    graph, scheme = module.graph, quantizer.scheme
    name = f"quantizers.{quantizer.node.name}"
    with graph.inserting_before(quantizer.node):
        scale = graph.get_attr(
            fx.set_tensor(module, f"{name}.scale", quantizer.scale.clone(), trainable=True)
        )
        zero_point = graph.get_attr(fx.set_tensor(module, f"{name}.zero_point", quantizer.zero_point.float()))
        axis = () if scheme.granularity == "per-tensor" else (quantizer.axis,)
        target = LEARNABLE_CHANNEL if axis else LEARNABLE_TENSOR
        factor = _gradient_factor(quantizer, program)
        arguments = (quantizer.source, scale, zero_point, *axis, scheme.qmin, scheme.qmax, factor)
        node = graph.call_function(target, arguments)
    node.meta = dict(quantizer.node.meta)
    quantizer.node.replace_all_uses_with(node)
    graph.erase_node(quantizer.node)
    module.recompile()
    return Learnable(node, f"{name}.scale", quantizer)


def _share_steps(places: list[Learnable]) -> list[Learnable]:
    """One step size for all quantizers of a value, before and behind moves, so that they stay one grid."""
    first: dict[tuple[Node, Scheme], Learnable] = {}
    shared = []
    for place in places:
        owner = first.setdefault((before_moves(place.node), place.before.scheme), place)
        fx.replace_argument(place.node, 1, owner.node.args[1])
        shared.append(dataclasses.replace(place, scale=owner.scale))
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
    before, source = place.before, place.node.args[0]
    assert isinstance(source, Node)
    scale = dict(module.named_parameters())[place.scale].detach().abs().clamp(min=1e-8)
    if before.is_weight:
        insert_weight(module, source, scale, before.zero_point, before.scheme, before.axis)
        (weight_quantizer,) = source.users
        place.node.replace_all_uses_with(weight_quantizer)
    else:
        quantizer = insert_activation(module, source, scale, before.zero_point, before.scheme)
        place.node.replace_all_uses_with(quantizer)
    module.graph.erase_node(place.node)
    module.recompile()
