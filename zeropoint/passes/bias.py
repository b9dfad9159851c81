"""Analytic bias correction: what rounding the weights adds to a layer's mean output, taken off its bias.

Nagel et al. 2019 (arXiv 1906.04721), section 4.2: the error of the weights times the expected input. Behind a
batch norm that follows from its weight and bias, so that no data is needed. GPTQ, which has data, corrects
biases by what it sees.
"""

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import CLAMPS, Weighted, aten, bias_of, family, weight_of, weighted
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, quantizers
from zeropoint.numerics.scheme import dequantize


def correct_biases(program: Program, float_program: Program) -> Program:
    """The quantized Program with the biases moved by ``-(W_q - W) E[x]``, where E[x] is known.

    ``float_program`` is the one that it was made from, with its batch norms; layers are the same by name.
    E[x] is known after a batch norm, with or without a ReLU or another clamp between, and after means, sums
    and concatenations of such values. Weights have to be rounded to nearest, since W must still be known.
    Transposed convolutions are left unchanged: the number of inputs of an output differs from place to place.
    """
    module = fx.copy(program.module)
    by_weight = {quantizer.node: quantizer for quantizer in quantizers(module) if quantizer.is_weight}
    inputs = expected_inputs(float_program)
    for layer in list(module.graph.nodes):
        description = weighted(layer)
        quantizer = by_weight.get(weight_of(layer)) if description else None
        if description and quantizer and layer.name in inputs and description.bias is not None:
            error = _weight_error(module, quantizer, description)
            move_bias(module, layer, description, -_output(error, inputs[layer.name]))
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def expected_inputs(program: Program) -> dict[str, Tensor]:
    """By the layer's name, the expected value of each channel of its input (float64), where it is known."""
    means: dict[Node, Tensor] = {}
    inputs = {}
    for node in program.module.graph.nodes:
        if node.op != "call_function":
            continue
        description = weighted(node)
        if description and description.family != "conv_transpose":
            source = cast(Node, node.args[description.input])
            is_by_channel = description.family != "linear" or source.meta["val"].dim() == 2
            if source in means and is_by_channel:
                inputs[node.name] = means[source]
        mean = _mean(program.module, node, means)
        if mean is not None:
            means[node] = mean
    return inputs


def _mean(module: GraphModule, node: Node, means: dict[Node, Tensor]) -> Tensor | None:
    """The expected value of each channel (axis 1) of a node, by those of the nodes before."""
    sources = node.all_input_nodes
    source = sources[0] if sources else None
    if _is_norm(node):
        return _normal(module, node)[0]
    if node.target in CLAMPS and not node.kwargs and source and _is_norm(source):
        low, high = CLAMPS[node.target](*node.args)
        return clamped_mean(*_normal(module, source), low, high)
    if any(part not in means for part in sources):
        return None
    if node.target is aten.cat.default and node.args[1:] == (1,):
        return torch.cat([means[part] for part in cast(list[Node], node.args[0])])
    if node.target is aten.add.Tensor and len(sources) == 2 and not node.kwargs:
        first, second = sources
        alike = first.meta["val"].dim() == second.meta["val"].dim()
        return means[first] + means[second] if alike else None
    return means[source] if source and _keeps_means(node, source) else None


def _is_norm(node: Node) -> bool:
    """Whether a node is a batch norm of constant statistics, weight and bias."""
    if node.target is not aten.batch_norm.default or node.args[5]:
        return False
    return all(part is None or fx.is_stored(part) for part in node.args[1:5])


def _normal(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what a batch norm gives: its bias and weight."""
    _, weight, bias, running_mean, *_ = norm.args
    channels = fx.tensor_of(module, cast(Node, running_mean)).double()
    deviation = torch.ones_like(channels) if weight is None else _value(module, weight).abs()
    return torch.zeros_like(channels) if bias is None else _value(module, bias), deviation


def _value(module: GraphModule, node: object) -> Tensor:
    return fx.tensor_of(module, cast(Node, node)).double()


def clamped_mean(mean: Tensor, deviation: Tensor, low: float | None, high: float | None) -> Tensor:
    """E[clamp(x, low, high)] of normal x; None means no limit. Nagel et al. 2019, appendix C."""
    deviation = deviation.clamp(min=1e-30)

    def below(end: float | None, otherwise: float) -> tuple[Tensor, Tensor]:
        """The distribution function at a limit, and the density."""
        if end is None:
            return torch.full_like(mean, otherwise), torch.zeros_like(mean)
        place = (end - mean) / deviation
        return torch.special.ndtr(place), torch.exp(-place.square() / 2) / math.sqrt(2 * math.pi)

    (under, low_density), (not_over, high_density) = below(low, 0.0), below(high, 1.0)
    inside = mean * (not_over - under) + deviation * (low_density - high_density)
    return inside + (low or 0.0) * under + (high or 0.0) * (1 - not_over)


def _keeps_means(node: Node, source: Node) -> bool:
    """Whether an operator averages over places, or leaves out axes of size 1: the channels stay."""
    sizes = [size if isinstance(size, int) else None for size in source.meta["val"].shape]
    if family(node) == "mean":
        return not {0, 1} & {axis % len(sizes) for axis in cast(list[int], node.args[1])}
    is_alone = all(size == 1 for size in sizes[2:]) and node.meta["val"].shape[1:2] == (sizes[1],)
    return family(node) == "avg_pool" or (node.target in _VIEWS and is_alone)


_VIEWS = {
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}


def _weight_error(module: GraphModule, quantizer: Quantizer, description: Weighted) -> Tensor:
    """W_q - W, (outputs, inputs of a group, ...) in float64."""
    weight = fx.tensor_of(module, quantizer.source)
    integers = quantizer.integers(module)
    rounded = dequantize(integers, quantizer.scale, quantizer.zero_point, quantizer.axis)
    return (rounded.double() - weight.double()).movedim(description.channel_axis, 0)


def _output(weight: Tensor, mean: Tensor) -> Tensor:
    """The output of a layer to a constant input, without padding."""
    matrix = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    groups = len(mean) // matrix.shape[1]
    return torch.einsum("goi,gi->go", matrix.unflatten(0, (groups, -1)), mean.reshape(groups, -1)).flatten()


def move_bias(module: GraphModule, layer: Node, description: Weighted, by: Tensor) -> None:
    """Adds ``by``, float64 of (outputs,), to the bias of one layer, which is created if missing."""
    assert description.bias is not None
    bias = bias_of(layer, description)
    name = f"{layer.name}__bias"  # its own name, since another layer may share the bias
    if bias is not None:
        by = by + _value(module, bias)
        name = str(bias.target) if len(bias.users) == 1 else name
    with module.graph.inserting_before(layer):
        node = module.graph.get_attr(fx.set_tensor(module, name, by.float(), trainable=True))
    node.meta["val"] = by.float()
    fx.replace_argument(layer, description.bias, node)
