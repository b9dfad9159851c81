"""GPTQ: weights rounded one input at a time; later inputs compensate the error of earlier ones.

Frantar et al. 2022 (arXiv 2210.17323). The target is the layer's output in the float network, to be
reached from its input in the quantized network (Li et al. 2025, "GPTAQ", arXiv 2504.02692). So errors do not
add up from layer to layer, and the bias, which is not rounded, is corrected too (Nagel et al. 2019, section
4.2).
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional

from zeropoint import progress
from zeropoint.graph import edits as fx
from zeropoint.graph.hidden import shown_by
from zeropoint.graph.operators import (
    WEIGHTED,
    bias_of,
    ungrouped,
    weight_of,
    weighted,
)
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, quantizers
from zeropoint.memory import keeping_freed
from zeropoint.passes.moments import POSITIONS, Moments, moments_of, moments_together, unfolds
from zeropoint.passes.stepping import Values, batches_of, forget, step
from zeropoint.targets.saturation import Pairing, Room, pairings

MEMORY = 1 << 30  # bytes of the moments of shared weights that are held at once, at most about
# Shares of the mean square of a layer's inputs. DAMPING is added before rounding (Frantar et al. 2022,
# section 3.3), one of RIDGES before refitting: a large one leaves the weights as they are.
DAMPING = 0.01
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
BLOCK = 32  # inputs that are rounded before all later ones are updated: ibid., where they are 128
JUDGES = 64  # groups, and output channels of each, at most, by which the best ridge is chosen


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
    readers = _readers(module)
    paired = pairings(module, program.processor)
    batches = batches_of(program, calibration, items)
    generator = torch.Generator().manual_seed(seed)
    batches = [batches[i] for i in torch.randperm(len(batches), generator=generator)] if seed else batches
    inputs = module.graph.find_nodes(op="placeholder")
    floats: list[Values] = [dict(zip(inputs, batch, strict=True)) for batch in batches]
    integers: list[Values] = [dict(values) for values in floats]
    shown = [shown_by(program.signature.input_names, batch) for batch in batches]
    done = Interpreter(module).user_to_last_uses

    def is_fitted(layer: Node) -> bool:
        return unfolds(layer) and (largest is None or _fan_in(layer) <= largest)

    def fitted(layer: Node, quantizer: Quantizer, folds: tuple[Moments, Moments]) -> _Fitted:
        return _fitted(module, layer, quantizer, folds, paired.get(str(quantizer.source.target)))

    with torch.no_grad():
        alone = {layers[0]: quantizer for quantizer, layers in readers if len(layers) == 1}
        shared = [one for one in readers if len(one[1]) > 1 and is_fitted(one[1][0])]
        known: dict[Node, _Fitted] = {}
        for part in _parts(shared):
            of_part = [layers for _, layers in part]
            moments = moments_together(module, of_part, floats, shown, positions, seed)
            for (quantizer, layers), both in zip(part, moments, strict=True):
                known[layers[0]] = fitted(layers[0], quantizer, (both, both))
        for node in progress.track(list(module.graph.nodes), "fitting weights"):
            bias = None
            if node in known:
                _put(module, node, known.pop(node), integers)
            elif node in alone and is_fitted(node):
                folds = moments_of(node, floats, integers, shown, positions, seed)
                if all(one.xx.isfinite().all() for one in folds):  # squares of 1e19 are not
                    _put(module, node, fitted(node, alone[node], folds), integers)
            elif node in alone:
                bias = bias_of(node, WEIGHTED[node.target])
            step(module, node, floats, integers)
            if bias:
                _correct_bias(module, node, bias, floats, integers)
            forget(done.get(node, ()), floats, integers)
    module.recompile()
    return dataclasses.replace(program, module=module)


def _readers(module: GraphModule) -> list[tuple[Quantizer, list[Node]]]:
    """Quantized weights, each with the layers that read it, if nothing else uses it and their bias.

    Several layers have to be of one kind, with the same bias or none.
    """
    by_weight = {quantizer.node: quantizer for quantizer in quantizers(module) if quantizer.is_weight}
    layers: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        if weighted(node) and (quantizer := ungrouped(weight_of(node))) in by_weight:
            layers.setdefault(quantizer, []).append(node)
    return [(by_weight[node], of) for node, of in layers.items() if _are_own(of, by_weight[node])]


def _are_own(layers: list[Node], quantizer: Quantizer) -> bool:
    first, weight = layers[0], weight_of(layers[0])
    bias = bias_of(first, WEIGHTED[first.target])
    alike = all(
        one.target is first.target
        and weight_of(one) is weight
        and bias_of(one, WEIGHTED[one.target]) is bias
        and not one.kwargs
        for one in layers
    )
    inner = {quantizer.node, quantizer.source} - {weight}
    return (
        alike
        and all(part is None or len(part.users) == len(layers) for part in (weight, bias))
        and all(len(part.users) == 1 for part in inner)
    )


Shared = list[tuple[Quantizer, list[Node]]]


def _parts(shared: Shared) -> Iterator[Shared]:
    """Weights that layers share, as many at once as MEMORY holds the moments of."""
    part: Shared = []
    room = MEMORY
    for quantizer, layers in shared:
        room -= 2 * _fan_in(layers[0]) ** 2 * 8
        if part and room < 0:
            yield part
            part, room = [], MEMORY
        part.append((quantizer, layers))
    if part:
        yield part


def _fan_in(layer: Node) -> int:
    """The number of inputs to an output."""
    weight = weight_of(layer).meta["val"]
    return int(weight.numel() // weight.shape[WEIGHTED[layer.target].channel_axis])


def _correct_bias(
    module: GraphModule,
    layer: Node,
    bias: Node,
    floats: list[Values],
    integers: list[Values],
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


def _set(module: GraphModule, node: Node, value: Tensor, integers: list[Values]) -> None:
    """Puts another tensor in place of a weight or bias, and of its value in the quantized network."""
    fx.set_tensor(module, str(node.target), value, trainable=True)
    for values in integers:
        values[node] = value


def _refitted(weight: Tensor, moments: Moments, ridge: Tensor) -> Tensor:
    """The weight that comes nearest to ``weight @ y`` from x, held back to what it is by a ridge."""
    held = torch.diag_embed(ridge)
    hessian, wanted = moments.xx + held, weight @ (moments.yx + held)
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if not failed.any():
        return torch.cholesky_solve(wanted.mT, factor).mT
    return cast(Tensor, torch.linalg.solve(hessian, wanted, left=False))  # float32 sums may be indefinite


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

    some = slice(None, None, -(-len(weight) // JUDGES))  # groups
    weight = weight[some, :: -(-weight.shape[1] // JUDGES)]
    folds = folds[0].of_groups(some), folds[1].of_groups(some)

    def error(strength: float) -> float:
        total = 0.0
        for seen, unseen in (folds, folds[::-1]):
            refitted = _refitted(weight, seen, _ridge(seen, strength, has_bias))
            total += float(((refitted @ unseen.xx - 2 * weight @ unseen.yx) * refitted).sum())
        return total

    return min(RIDGES, key=error)


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """A layer's weight on its grid, in the shape that the layer takes, and its bias, if it has one."""

    weight: Tensor
    bias: Tensor | None


def _fitted(
    module: GraphModule,
    layer: Node,
    quantizer: Quantizer,
    folds: tuple[Moments, Moments],
    pairing: Pairing | None,
) -> _Fitted:
    """Refits and rounds the weight of a layer."""
    description = WEIGHTED[layer.target]
    node, bias = weight_of(layer), bias_of(layer, description)
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
    offset = None
    if bias is not None:
        matrix, offset = matrix[..., :-1], matrix[..., -1].flatten().float()
    new = matrix.flatten(0, 1).reshape(rows.shape).movedim(0, description.channel_axis)
    return _Fitted(new.float().contiguous(), offset)


def _put(module: GraphModule, layer: Node, fitted: _Fitted, integers: list[Values]) -> None:
    """Gives a layer its new weight and bias, in the quantized network."""
    node, bias = weight_of(layer), bias_of(layer, WEIGHTED[layer.target])
    source = cast(Node, ungrouped(node).args[0])
    stored = fx.tensor_of(module, source)
    _set(module, source, fitted.weight.reshape(stored.shape), integers)
    if bias is not None and fitted.bias is not None:
        _set(module, bias, fitted.bias, integers)
    for values in integers:
        values[node] = fitted.weight


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
