"""Quantization-aware training: fine-tuning the statically quantized graph with its quantizers in it.

Weights, biases and step sizes learn together: LSQ (Esser et al. 2020, "Learned Step Size Quantization"), by
ATen's learnable fake-quantize operators. Their backward pass is that paper's eq. 3, but that the half step
beyond either end, which still rounds to it, counts as inside.
"""

import dataclasses
import math

from torch.fx import GraphModule, Node

from zeropoint import graph as fx
from zeropoint.batches import Loader
from zeropoint.methods.static import static
from zeropoint.operators import LEARNABLE_CHANNEL, LEARNABLE_TENSOR
from zeropoint.options import Options
from zeropoint.placement import before_moves
from zeropoint.program import Program
from zeropoint.quantizers import Quantizer, insert_activation, insert_weight, quantizers
from zeropoint.scheme import Scheme
from zeropoint.target import Target
from zeropoint.training import train


def qat(
    program: Program,
    target: Target,
    calibration: Loader,
    options: Options,
    train_data: Loader,
    validation: Loader | None = None,
) -> Program:
    """The Program after static quantization and ``options.epochs`` of training on labelled ``train_data``.

    The epoch with the best accuracy on ``validation`` is kept, the last one where there is no such data.
    """
    start = static(program, target, calibration, options)
    module = fx.copy(start.module)
    for name, parameter in list(module.named_parameters()):  # not to train the user's own
        fx.set_tensor(module, name, parameter.detach().clone(), trainable=True)
    places = _share_steps([_make_learnable(module, quantizer, start) for quantizer in quantizers(module)])
    fx.remove_unused(module)
    steps = {place.scale for place in places}
    named = dict(module.named_parameters())
    groups = [
        {
            "params": [p for name, p in named.items() if name not in steps and p.dim() > 1],
            "weight_decay": 1e-5,
        },
        {
            "params": [p for name, p in named.items() if name not in steps and p.dim() <= 1],
            "weight_decay": 0.0,
        },
        # A step size is decayed by nothing, and is small: the learning rate of weights would throw it about.
        {"params": [named[name] for name in steps], "weight_decay": 0.0, "lr": options.learning_rate / 10},
    ]
    train(
        module,
        train_data,
        validation,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        optimizer="adamw",
        parameter_groups=groups,
        seed=options.seed,
    )
    for place in places:
        _make_constant(module, place)
    fx.remove_unused(module)
    return dataclasses.replace(start, module=module, method="qat")


@dataclasses.dataclass(frozen=True)
class _Learnable:
    """A learnable quantizer in the graph, the name of its step size, and the quantizer it stands for."""

    node: Node
    scale: str
    before: Quantizer


def _make_learnable(module: GraphModule, quantizer: Quantizer, program: Program) -> _Learnable:
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
    return _Learnable(node, f"{name}.scale", quantizer)


def _share_steps(places: list[_Learnable]) -> list[_Learnable]:
    """One step size for all quantizers of a value, before and behind moves, so that they stay one grid."""
    first: dict[tuple[Node, Scheme], _Learnable] = {}
    shared = []
    for place in places:
        owner = first.setdefault((before_moves(place.node), place.before.scheme), place)
        fx.replace_argument(place.node, 1, owner.node.args[1])
        shared.append(dataclasses.replace(place, scale=owner.scale))
    return shared


def _gradient_factor(quantizer: Quantizer, program: Program) -> float:
    """``1 / sqrt(N * Qp)``: Esser et al. 2020, section 2.2, with N the values that share one step size."""
    shape = [int(size) if isinstance(size, int) else 1 for size in quantizer.source.meta["val"].shape]
    values = math.prod(shape)
    if quantizer.is_weight and quantizer.scheme.granularity == "per-channel":
        values //= shape[quantizer.axis]
    elif not quantizer.is_weight and not program.dynamic_batch:
        values //= shape[0]
    return 1.0 / math.sqrt(max(values, 1) * quantizer.scheme.qmax)


def _make_constant(module: GraphModule, place: _Learnable) -> None:
    """Puts the plain quantizer back, with the step size that was learned."""
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
