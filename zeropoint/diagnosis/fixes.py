"""Fixes: changes to one layer of a quantized Program, each a pass that leaves the others alone."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import FAKE_QUANTIZE, TRANSPARENT, bias_of, ungrouped, weighted
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, dynamic_ends, insert_activation, insert_weight, quantizers
from zeropoint.measure.layerwise import Layerwise, Seen
from zeropoint.numerics.ranges import ESTIMATORS, WEIGHT_ESTIMATORS, Statistics
from zeropoint.numerics.scheme import Scheme, choose_parameters
from zeropoint.targets.saturation import Pairing, safe_scale

BETTER = 0.8  # times the squared error of the grid there is, from which on another one is worth a try
ESTIMATED = ("minmax", "percentile", "mse")


@dataclass(frozen=True)
class Fix:
    """What can be done about a layer: in words, and as a pass."""

    layer: str
    what: str
    apply: Callable[[Program], Program]


def fixes(looked: Layerwise, seen: Seen) -> list[Fix]:
    """What may help a layer, the cheapest to run first."""
    found: list[tuple[str, Callable[[Program], Program]]] = []
    name, weight = seen.node.name, seen.weight
    if better := _better_grids(seen):
        estimators = " and ".join(sorted({estimator for estimator, _ in better.values()}))
        grids = {quantizer: grid for quantizer, (_, grid) in better.items()}
        found.append((f"{estimators} range for its input", lambda of: _with_grids(of, grids)))
    if seen.pairs is not None:
        words, pairing = "weights that cannot overflow on this processor", seen.pairs.pairing
        found.append((words, lambda of: _with_fine_weights(of, name, looked, pairing)))
    if weight is not None and (weight.scheme.bits < 8 or weight.scheme.granularity == "per-tensor"):
        words = "8-bit weights" if weight.scheme.bits < 8 else "a scale for each output of its weight"
        found.append((words, lambda of: _with_fine_weights(of, name, looked)))
    if any(one.scheme.bits < 16 for one in seen.quantizers if one.node in seen.operands):
        found.append(("16-bit activations into it", lambda of: _with_wide_inputs(of, name, seen)))
    found.append(("leave it float", lambda of: left_float(of, name, looked)))
    return [Fix(fx.module_name(seen.node), words, apply) for words, apply in found]


def _better_grids(seen: Seen) -> dict[str, tuple[str, tuple[Tensor, Tensor]]]:
    """For the names of quantizers: the estimator whose grid leaves far less error, and the grid."""
    better = {}
    for one in seen.quantizers:
        if one.node in seen.operands:
            statistics = seen.operands[one.node]
            least = BETTER * _squared_error(statistics, one.scheme, one.scale, one.zero_point)
            for name in ESTIMATED:
                low, high = (torch.tensor([end]) for end in ESTIMATORS[name](statistics, one.scheme))
                grid = choose_parameters(low, high, one.scheme)
                if (error := _squared_error(statistics, one.scheme, *grid)) < least:
                    least, better[one.node.name] = error, (name, grid)
    return better


def _squared_error(statistics: Statistics, scheme: Scheme, scale: Tensor, zero_point: Tensor) -> float:
    levels = (torch.round(statistics.centers / scale) + zero_point).clamp(scheme.qmin, scheme.qmax)
    errors = (levels - zero_point) * scale - statistics.centers
    return float((errors**2 * statistics.histogram).sum())


def _with_grids(program: Program, grids: dict[str, tuple[Tensor, Tensor]]) -> Program:
    module = fx.copy(program.module)
    for node in module.graph.nodes:
        if node.name in grids:
            scale, zero_point = grids[node.name]
            node.args = (node.args[0], float(scale), int(zero_point), *node.args[3:])
    module.recompile()
    return dataclasses.replace(program, module=module)


def _with_wide_inputs(program: Program, name: str, seen: Seen) -> Program:
    module, layer = _copied(program, name)
    ranges = {node.name: (statistics.low, statistics.high) for node, statistics in seen.operands.items()}
    for one in _operands(module, layer):
        if one.node.name in ranges and one.scheme.bits < 16:
            scheme = dataclasses.replace(one.scheme, bits=16)
            low, high = (torch.tensor([end]) for end in ranges[one.node.name])
            wide = insert_activation(module, one.source, *choose_parameters(low, high, scheme), scheme)
            _read_instead(layer, one, wide)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _with_fine_weights(
    program: Program, name: str, looked: Layerwise, pairing: Pairing | None = None
) -> Program:
    """The Program with 8-bit weights per channel in one layer; with a ``pairing`` none that overflow."""
    module, layer = _copied(program, name)
    for one in _operands(module, layer):
        if one.is_weight and len(one.source.users) == 1:
            _restore(module, layer, one, looked)
            fine = dataclasses.replace(one.scheme, bits=8, granularity="per-channel")
            weight = fx.tensor_of(module, one.source)
            scale, zero_point = WEIGHT_ESTIMATORS["minmax"](weight, fine, one.axis)
            if pairing is not None:
                scale = safe_scale(weight, scale, pairing, one.axis)
            one.node.replace_all_uses_with(one.source)
            module.graph.erase_node(one.node)
            insert_weight(module, one.source, scale, zero_point, fine, one.axis)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def left_float(program: Program, name: str, looked: Layerwise) -> Program:
    """The Program with no quantizers before one layer, which has its float weights again."""
    module, layer = _copied(program, name)
    for one in _operands(module, layer):
        if one.is_weight and len(one.source.users) == 1:
            _restore(module, layer, one, looked)
            one.node.replace_all_uses_with(one.source)
        else:
            _read_instead(layer, one, one.source)
    for operand in layer.all_input_nodes:  # one that finds its range at run time
        if (quantizer := ungrouped(operand)).target in FAKE_QUANTIZE:
            layer.replace_input_with(operand, dynamic_ends(quantizer)[0])
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _read_instead(layer: Node, one: Quantizer, value: Node) -> None:
    """Has a layer read another value in place of a quantizer, also of one that comes before moves to it."""
    layer.replace_input_with(one.node, value)
    if not one.node.users:
        layer.graph.erase_node(one.node)
    moved = one.source
    while moved.target in TRANSPARENT and len(moved.users) == 1:
        move, moved = moved, cast(Node, moved.args[0])
        if moved.target in FAKE_QUANTIZE and len(moved.users) == 1:
            move.replace_input_with(moved, cast(Node, moved.args[0]))
            return


def _copied(program: Program, name: str) -> tuple[GraphModule, Node]:
    module = fx.copy(program.module)
    return module, next(node for node in module.graph.nodes if node.name == name)


def _operands(module: GraphModule, layer: Node) -> list[Quantizer]:
    operands = [ungrouped(operand) for operand in layer.all_input_nodes]
    return [one for one in quantizers(module) if one.node in operands]


def _restore(module: GraphModule, layer: Node, weight: Quantizer, looked: Layerwise) -> None:
    """Gives a layer the float weight and bias back that fitting has moved."""
    description = weighted(layer)
    bias = bias_of(layer, description) if description else None
    for node in (weight.source, bias):
        if node is not None and str(node.target) in looked.float_weights:
            value = looked.float_weights[str(node.target)]
            fx.set_tensor(module, str(node.target), value, trainable=True)
