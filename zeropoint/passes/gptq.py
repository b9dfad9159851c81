"""GPTQ: weights rounded one input at a time; later inputs compensate the error of earlier ones.

Frantar et al. 2022 (arXiv 2210.17323). The target is the layer's output in the float network, to be
reached from its input in the quantized network (Li et al. 2025, "GPTAQ", arXiv 2504.02692). So errors do not
add up from layer to layer, and the bias, which is not rounded, is corrected too (Nagel et al. 2019, section
4.2).
"""

import dataclasses
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg
from torch.nn import functional

from zeropoint import progress
from zeropoint.data.batches import inputs_of, items_of
from zeropoint.graph import edits as fx
from zeropoint.graph.operators import (
    FAKE_QUANTIZE,
    WEIGHTED,
    Weighted,
    bias_of,
    ungrouped,
    weighted,
)
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import FAST, Quantizer, quantizers
from zeropoint.memory import keeping_freed
from zeropoint.passes.moments import POSITIONS, Moments, moments_of, unfolds
from zeropoint.targets.saturation import Pairing, Room, pairings

ITEMS = 8  # at a time
MEMORY = 1 << 30  # bytes of activations that are held at once, at most about
# Shares of the mean square of a layer's inputs. DAMPING is added before rounding (Frantar et al. 2022,
# section 3.3), one of RIDGES before refitting: a large one leaves the weights as they are.
DAMPING = 0.01
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
BLOCK = 32  # inputs that are rounded before all later ones are updated: ibid., where they are 128
JUDGES = 64  # output channels, at most, by which the best ridge is chosen


@keeping_freed()
def gptq(
    program: Program,
    calibration: Iterable[Any],
    *,
    largest: int | None = None,
    items: int | None = None,
    positions: int = POSITIONS,
    seed: int = 0,
) -> Program:
    """The Program with every quantized weight on its grid so that the layers' outputs are nearest to float.

    Layers with more than ``largest`` inputs to an output only have their biases corrected. Reads as much of
    ``calibration`` as fits in MEMORY, at most ``items``; memory does not grow beyond with the data. Looks at
    ``positions`` of a layer's output, or more where it has many inputs; ``seed`` chooses which, and the order
    of the batches.
    """
    module = fx.copy(program.module)
    by_weight = {quantizer.node: quantizer for quantizer in quantizers(module) if quantizer.is_weight}
    paired = pairings(module, program.processor)
    batches = _batches(program, calibration, items)
    generator = torch.Generator().manual_seed(seed)
    batches = [batches[i] for i in torch.randperm(len(batches), generator=generator)] if seed else batches
    inputs = module.graph.find_nodes(op="placeholder")
    floats: list[dict[Node, Any]] = [dict(zip(inputs, batch, strict=True)) for batch in batches]
    integers: list[dict[Node, Any]] = [dict(values) for values in floats]
    done = Interpreter(module).user_to_last_uses
    with torch.no_grad():
        for node in progress.track(list(module.graph.nodes), "fitting weights"):
            description = weighted(node)
            quantizer = by_weight.get(ungrouped(_weight(node, description))) if description else None
            bias = None
            if description and quantizer and _is_own(node, description, quantizer):
                if unfolds(node) and (largest is None or _fan_in(node, description) <= largest):
                    folds = moments_of(node, description, floats, integers, positions, seed)
                    pairing = paired.get(str(quantizer.source.target))
                    _fit(module, node, description, quantizer, folds, integers, pairing)
                else:
                    bias = bias_of(node, description)
            _step(module, node, floats, integers)
            if bias:
                _correct_bias(module, node, bias, floats, integers)
            for float_values, values in zip(floats, integers, strict=True):
                for other in done.get(node, ()):
                    float_values.pop(other, None)
                    values.pop(other, None)
    module.recompile()
    return dataclasses.replace(program, module=module)


def _batches(
    program: Program, calibration: Iterable[Any], items: int | None = None
) -> list[tuple[Tensor, ...]]:
    """The first inputs of the calibration data, a few items each where the batch size is free."""
    room = MEMORY // (2 * _live_bytes(program))
    room = room if items is None else min(room, items)
    batches: list[tuple[Tensor, ...]] = []
    for inputs in inputs_of(calibration, ITEMS if program.dynamic_batch else None):
        split = [tensor.split(ITEMS) if program.dynamic_batch else (tensor,) for tensor in inputs]
        for parts in zip(*split, strict=True):
            room -= items_of(parts)
            if batches and room < 0:
                return batches
            batches.append(parts)
    return batches


def _live_bytes(program: Program) -> int:
    """About what one item's activations take at the point of the graph where most are needed again."""
    live, most = 0, 1
    done = Interpreter(program.module).user_to_last_uses
    for node in program.module.graph.nodes:
        live += fx.item_bytes(node)
        most = max(most, live)
        live -= sum(fx.item_bytes(other) for other in done.get(node, ()))
    return most


def _step(
    module: GraphModule, node: Node, floats: list[dict[Node, Any]], integers: list[dict[Node, Any]]
) -> None:
    """Computes a node in both networks; in the float one a quantizer gives back what it takes."""
    if node.op == "get_attr":
        value = attrgetter(str(node.target))(module)  # a tensor, or a branch's graph
        for env in (*floats, *integers):
            env[node] = value
    elif node.op == "call_function":
        for env in floats:
            skipped = node.target in FAKE_QUANTIZE
            env[node] = env[cast(Node, node.args[0])] if skipped else _value(node, env)
        if all(source.op == "get_attr" for source in node.all_input_nodes):
            integers[0][node] = _value(node, integers[0])
            for env in integers[1:]:
                env[node] = integers[0][node]
        else:
            for env in integers:
                env[node] = _value(node, env)


def _value(node: Node, env: dict[Node, Any]) -> Any:
    arguments, keywords = map_arg((node.args, node.kwargs), env.__getitem__)
    operator: Any = FAST.get(node.target, node.target)
    return operator(*arguments, **keywords)


def _is_own(layer: Node, description: Weighted, quantizer: Quantizer) -> bool:
    """Whether nothing else uses the layer's weight and bias."""
    parts = [_weight(layer, description), quantizer.node, quantizer.source, bias_of(layer, description)]
    return not layer.kwargs and all(part is None or len(part.users) == 1 for part in parts)


def _weight(layer: Node, description: Weighted) -> Node:
    return cast(Node, layer.args[description.weight])


def _fan_in(layer: Node, description: Weighted) -> int:
    """The number of inputs to an output."""
    weight = _weight(layer, description).meta["val"]
    return int(weight.numel() // weight.shape[description.channel_axis])


def _correct_bias(
    module: GraphModule,
    layer: Node,
    bias: Node,
    floats: list[dict[Node, Any]],
    integers: list[dict[Node, Any]],
) -> None:
    """Moves a bias, and the outputs, by their mean difference: Nagel et al. 2019, section 4.2, eq. 14."""
    axis = -1 if WEIGHTED[layer.target].family == "linear" else 1
    total, count = torch.zeros_like(fx.tensor_of(module, bias)), 0
    for float_values, values in zip(floats, integers, strict=True):
        difference = (float_values[layer] - values[layer]).movedim(axis, -1).flatten(0, -2)
        total, count = total + difference.sum(0), count + len(difference)
    mean = total / count
    _set(module, bias, fx.tensor_of(module, bias) + mean, integers)
    for values in integers:
        values[layer] = (values[layer].movedim(axis, -1) + mean).movedim(-1, axis)


def _set(module: GraphModule, node: Node, value: Tensor, integers: list[dict[Node, Any]]) -> None:
    """Puts another tensor in place of a weight or bias, and of its value in the quantized network."""
    fx.set_tensor(module, str(node.target), value, trainable=True)
    for values in integers:
        values[node] = value


def _refitted(weight: Tensor, moments: Moments, ridge: Tensor) -> Tensor:
    """The weight that comes nearest to ``weight @ y`` from x, held back to what it is by a ridge."""
    held = torch.diag_embed(ridge)
    return cast(Tensor, torch.linalg.solve(moments.xx + held, weight @ (moments.yx + held), left=False))


def _ridge(moments: Moments, strength: float, has_bias: bool) -> Tensor:
    """``strength`` times the mean square of the inputs, (groups, K); the bias is held by next to nothing."""
    squares = moments.xx.diagonal(dim1=1, dim2=2)
    mean = (squares[:, :-1] if has_bias else squares).mean(1, keepdim=True)
    ridge = torch.where(mean > 0, mean, 1.0).expand_as(squares) * (strength + 1e-10)
    if has_bias:
        ridge = torch.cat([ridge[:, :-1], ridge[:, -1:] * 1e-10 / (strength + 1e-10)], 1)
    return ridge


def _best_strength(weight: Tensor, folds: tuple[Moments, Moments], has_bias: bool) -> float:
    """The ridge at which a weight refitted on one half of the data is nearest to float on the other."""
    if folds[0] is folds[1]:
        return RIDGES[-1]

    weight = weight[:, :: -(-weight.shape[1] // JUDGES)]

    def error(strength: float) -> float:
        total = 0.0
        for seen, unseen in (folds, folds[::-1]):
            refitted = _refitted(weight, seen, _ridge(seen, strength, has_bias))
            total += float(((refitted @ unseen.xx - 2 * weight @ unseen.yx) * refitted).sum())
        return total

    return min(RIDGES, key=error)


def _fit(
    module: GraphModule,
    layer: Node,
    description: Weighted,
    quantizer: Quantizer,
    folds: tuple[Moments, Moments],
    integers: list[dict[Node, Any]],
    pairing: Pairing | None,
) -> None:
    """Refits and rounds the weight of a layer."""
    node, bias = _weight(layer, description), bias_of(layer, description)
    stored = fx.tensor_of(module, quantizer.source)  # group by group, perhaps
    weight = stored.reshape(node.meta["val"].shape)
    rows = weight.movedim(description.channel_axis, 0)
    groups = len(folds[0].xx)
    matrix = rows.flatten(1).unflatten(0, (groups, -1)).double()
    if bias is not None:
        offsets = fx.tensor_of(module, bias).double().reshape(groups, -1, 1)
        matrix = torch.cat([matrix, offsets], 2)
    moments = folds[0] if folds[0] is folds[1] else folds[0] + folds[1]
    strength = _best_strength(matrix, folds, bias is not None)
    matrix = _refitted(matrix, moments, _ridge(moments, strength, bias is not None))
    damped = moments.xx + torch.diag_embed(_ridge(moments, DAMPING, bias is not None))
    room = None
    if pairing is not None and quantizer.scheme.bits == 8:
        room = Room(pairing, matrix.shape[:2], rows.shape[1], rows[0, 0].numel())
    matrix = _rounded(matrix, damped, quantizer, bias is not None, room)
    if bias is not None:
        _set(module, bias, matrix[..., -1].flatten().float(), integers)
        matrix = matrix[..., :-1]
    new = matrix.flatten(0, 1).reshape(rows.shape).movedim(0, description.channel_axis).float().contiguous()
    _set(module, quantizer.source, new.reshape(stored.shape), integers)
    for values in integers:
        values[node] = new


def _rounded(
    weight: Tensor, hessian: Tensor, quantizer: Quantizer, keeps_last: bool, room: Room | None = None
) -> Tensor:
    """The weight (groups, O, K) on its grid: Frantar et al. 2022, algorithm 1, the largest inputs first.

    ``room`` keeps weights that are added as pairs from overflowing.
    """
    inputs = weight.shape[2] - keeps_last
    order = hessian.diagonal(dim1=1, dim2=2)[:, :inputs].argsort(1, descending=True)
    if keeps_last:
        order = functional.pad(order, (0, 1), value=inputs)
    weight = weight.gather(2, order.unsqueeze(1).expand_as(weight))
    hessian = hessian.gather(1, order.unsqueeze(2).expand_as(hessian))
    hessian = hessian.gather(2, order.unsqueeze(1).expand_as(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    scheme = quantizer.scheme

    def by_column(parameters: Tensor) -> Tensor:
        """One of each input to each output, (groups, O, inputs), in the order of rounding."""
        rows = (*weight.shape[:2], -1) if parameters.numel() > 1 else (1, 1, 1)
        columns = parameters.double().reshape(rows)
        if columns.shape[2] == 1:
            return columns.expand(-1, -1, inputs)
        columns = columns.repeat_interleave(inputs // columns.shape[2], 2)
        return columns.gather(2, order[:, None, :inputs].expand_as(columns))

    scales, zero_points = by_column(quantizer.scale), by_column(quantizer.zero_point)
    for first in range(0, inputs, BLOCK):
        last = min(first + BLOCK, inputs)
        errors = torch.empty_like(weight[..., first:last])
        for i in range(first, last):
            column, scale, zero_point = (part[..., i : i + 1] for part in (weight, scales, zero_points))
            levels = (torch.round(column / scale) + zero_point).clamp(scheme.qmin, scheme.qmax)
            levels = levels if room is None else room.fill(order[:, i], levels)
            rounded = (levels - zero_point) * scale
            error = (column - rounded) / factor[:, i : i + 1, i : i + 1]
            errors[..., i - first : i - first + 1] = error
            weight[..., i + 1 : last] -= error * factor[:, i : i + 1, i + 1 : last]
            weight[..., i : i + 1] = rounded
        weight[..., last:] -= errors @ factor[:, first:last, last:]
    return torch.empty_like(weight).scatter_(2, order.unsqueeze(1).expand_as(weight), weight)
