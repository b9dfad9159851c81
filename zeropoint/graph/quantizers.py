"""Quantizers in a graph: ATen's own fake-quantize nodes, put in and read back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import (
    FAKE_QUANTIZE,
    FAKE_QUANTIZE_CHANNEL,
    FAKE_QUANTIZE_DYNAMIC,
    FAKE_QUANTIZE_TENSOR,
    WEIGHTED,
    aten,
    family,
    finds_groups,
    ungrouped,
)
from zeropoint.numerics import scheme as schemes
from zeropoint.numerics.scheme import Scheme
from zeropoint.torch_private.operators import OpOverload


@dataclass(frozen=True)
class Quantizer:
    """What a fake-quantize node does to the value of ``source``.

    ``scale`` (float32) and ``zero_point`` (int32) are 1-D: one value, or one per channel along ``axis``.
    """

    node: Node
    source: Node
    scale: Tensor
    zero_point: Tensor
    scheme: Scheme
    axis: int

    @property
    def is_weight(self) -> bool:
        """Whether a weight of the model is quantized, not an activation."""
        return fx.is_stored(self.source)

    @property
    def name(self) -> str:
        """How the quantizer is called in a file: by its weight, or by its node."""
        return str(self.source.target) if self.is_weight else self.node.name

    def integers(self, module: GraphModule) -> Tensor:
        """The int8 or uint8 values of a quantized weight."""
        weight = fx.tensor_of(module, self.source)
        return schemes.quantize(weight, self.scale, self.zero_point, self.scheme, self.axis)


def quantizers(module: GraphModule) -> Iterator[Quantizer]:
    """The quantizers with constant scales, in the graph's order."""
    for node in list(module.graph.nodes):
        if node.target is FAKE_QUANTIZE_TENSOR:
            source, scale, zero_point, qmin, qmax = node.args
            scales = torch.tensor([scale], dtype=torch.float32)
            zero_points = torch.tensor([zero_point], dtype=torch.int32)
            scheme = node.meta.get("scheme") or _scheme(qmin, qmax, zero_points, "per-tensor")
            yield Quantizer(node, source, scales, zero_points, scheme, 0)
        elif node.target is FAKE_QUANTIZE_CHANNEL:
            source, scale, zero_point, axis, qmin, qmax = node.args
            scales, zero_points = fx.tensor_of(module, scale), fx.tensor_of(module, zero_point)
            scheme = node.meta.get("scheme") or _scheme(qmin, qmax, zero_points, "per-channel")
            yield Quantizer(node, source, scales, zero_points, scheme, axis)


def fake_quantize(value: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """What ATen's per-tensor operator gives, without the mask for gradients: in a fifth of its time.

    Where a value lies in the middle of two levels, rounding may go the other way.
    """
    levels = (value * (1 / scale)).round_().clamp_(qmin - zero_point, qmax - zero_point)
    return levels.mul_(scale)


def fake_quantize_channels(
    value: Tensor, scale: Tensor, zero_point: Tensor, axis: int, qmin: int, qmax: int
) -> Tensor:
    """The same for ATen's per-channel operator, in an eighth of its time."""
    shape = schemes.per_channel_shape(scale, value.dim(), axis)
    steps, zeros = scale.reshape(shape), zero_point.reshape(shape)
    levels = (value * (1 / steps)).round_().add_(zeros).clamp_(qmin, qmax).sub_(zeros)
    return levels.mul_(steps)


FAST: dict[Any, Any] = {
    FAKE_QUANTIZE_TENSOR: fake_quantize,
    FAKE_QUANTIZE_CHANNEL: fake_quantize_channels,
}


class Simulation(Interpreter):
    """Runs a quantized graph by ``FAST``."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator's value."""
        return super().call_function(FAST.get(target, target), args, kwargs)


def restore_schemes(module: GraphModule, schemes: Mapping[str, Scheme]) -> None:
    """Gives the quantizers of a module that was saved the schemes that they had, by their names."""
    for one in quantizers(module):
        if scheme := schemes.get(one.name):
            one.node.meta["scheme"] = scheme
            one.node.args = (*one.node.args[:-2], scheme.qmin, scheme.qmax)


def _scheme(qmin: int, qmax: int, zero_point: Tensor, granularity: schemes.Granularity) -> Scheme:
    signed = qmin < 0
    middle = 0 if signed else (qmax + 1) // 2
    symmetric = bool(((zero_point == middle) | (zero_point == 0)).all())  # 0 is the end of unsigned integers
    return Scheme((qmax - qmin).bit_length(), signed, symmetric, granularity)


def is_wide(node: Node) -> bool:
    """Whether a node is a quantizer of more than eight bits."""
    if node.target not in (FAKE_QUANTIZE_TENSOR, FAKE_QUANTIZE_CHANNEL):
        return False
    qmin, qmax = cast(tuple[int, int], node.args[-2:])
    return qmax - qmin > 255


def multiplies_quantized(node: Node) -> bool:
    """Whether a product of tensors has quantizers on both of them, which engines have integer kernels for."""
    description = WEIGHTED.get(node.target)
    if description is None and family(node) != "product":
        return False
    positions = (description.input, description.weight) if description else (0, 1)
    factors = [ungrouped(node.args[position]) for position in positions]  # type: ignore[arg-type]
    return all(
        isinstance(factor, Node) and factor.target in FAKE_QUANTIZE and not is_wide(factor)
        for factor in factors
    )


def drop_wide(module: GraphModule) -> None:
    """Drops quantizers of more than eight bits, for engines: none has kernels for them on a CPU.

    OpenVINO drops them by itself, and ONNX Runtime adds rounding to a float
    product: 2.8 times its time.
    """
    for node in [node for node in module.graph.nodes if is_wide(node)]:
        node.replace_all_uses_with(cast(Node, node.args[0]))
        module.graph.erase_node(node)


def insert_activation(
    module: GraphModule, source: Node, scale: Tensor, zero_point: Tensor, scheme: Scheme
) -> Node:
    """A per-tensor quantizer right after ``source``; its users are not rewired."""
    with module.graph.inserting_after(source):
        arguments = (source, float(scale.float()), int(zero_point), scheme.qmin, scheme.qmax)
        node = module.graph.call_function(FAKE_QUANTIZE_TENSOR, arguments)
    return _named_after(node, source, scheme)


def insert_weight(
    module: GraphModule, source: Node, scale: Tensor, zero_point: Tensor, scheme: Scheme, axis: int
) -> Node:
    """A quantizer between a weight and all its users; per channel along ``axis`` as the scheme says."""
    users = list(source.users)
    with module.graph.inserting_after(source):
        if scheme.granularity == "per-channel":
            name = str(source.target)
            parts: list[Any] = [
                module.graph.get_attr(fx.set_tensor(module, f"{name}__{part}", value))
                for part, value in (("scale", scale.float()), ("zero_point", zero_point.int()))
            ]
            for part, value in zip(parts, (scale, zero_point), strict=True):
                part.meta["val"] = value
            with module.graph.inserting_after(parts[0]):
                arguments = (source, *parts, axis, scheme.qmin, scheme.qmax)
                node = module.graph.call_function(FAKE_QUANTIZE_CHANNEL, arguments)
        else:
            node = insert_activation(module, source, scale, zero_point, scheme)
    for user in users:
        user.replace_input_with(source, node)
    return _named_after(node, source, scheme)


def insert_dynamic(module: GraphModule, source: Node, scheme: Scheme) -> Node:
    """A quantizer whose range is that of the activation at run time, computed in the graph by plain ATen.

    The affine mapping of Jacob et al. 2018, eq. 1, with the range widened to hold zero.
    """
    graph = module.graph
    with graph.inserting_after(source):
        anchor = graph.call_function(aten.amin.default, (source,))
    with graph.inserting_after(anchor):
        highest = graph.call_function(aten.amax.default, (source,))
    previous = highest

    def then(target: OpOverload, *arguments: object, **keywords: object) -> Node:
        nonlocal previous
        with graph.inserting_after(previous):
            previous = graph.call_function(target, arguments, keywords)  # type: ignore[arg-type]
        return previous

    low = then(aten.clamp_max.default, anchor, 0.0)
    high = then(aten.clamp_min.default, highest, 0.0)
    width = then(aten.sub.Tensor, high, low)
    scale = then(
        aten.clamp_min.default, then(aten.div.Tensor, width, float(scheme.qmax - scheme.qmin)), 1e-12
    )
    steps = then(aten.round.default, then(aten.div.Tensor, low, scale))
    offset = then(aten.rsub.Scalar, steps, float(scheme.qmin))
    inside = then(aten.clamp.default, offset, float(scheme.qmin), float(scheme.qmax))
    zero_point = then(aten._to_copy.default, inside, dtype=torch.int32)
    node = then(FAKE_QUANTIZE_DYNAMIC, source, scale, zero_point, scheme.qmin, scheme.qmax)
    return _named_after(node, source)


def dynamic_ends(quantizer: Node) -> tuple[Node, Node]:
    """The value that a run-time quantizer is of, and the node that holds it rounded."""
    source, result = cast(Node, quantizer.args[0]), quantizer
    if not finds_groups(quantizer):
        return source, result
    for _ in ("division", "reshape"):
        source = cast(Node, source.args[0])
    for _ in ("product", "view"):
        (result,) = result.users
    (after,) = result.users if len(result.users) == 1 else (None,)
    if after is not None and after.target is aten.slice.Tensor and source.target is aten.cat.default:
        source, result = cast(list[Node], source.args[0])[0], after  # without the padding
    return source, result


def round_groups(module: GraphModule) -> None:
    """Puts plain rounding in the place of run-time quantizers of groups, in place, for engines without."""
    for node in module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_DYNAMIC):
        if finds_groups(node):
            node.target, node.args = aten.round.default, node.args[:1]


def _named_after(node: Node, source: Node, scheme: Scheme | None = None) -> Node:
    node.meta = {
        key: source.meta[key] for key in ("nn_module_stack", "val", "stack_trace") if key in source.meta
    }
    if scheme is not None:
        node.meta["scheme"] = scheme
    return node
