"""Weights and biases of a layer: the numbers kept, beside the float ones that they come from."""

import math

import numpy as np
import torch
from torch import Tensor

from zeropoint.graph.quantizers import Quantizer
from zeropoint.inspection.facts import Bias, BiasValue, Grid, Value, Weight
from zeropoint.numerics.scheme import dequantize, quantize


def grid_of(quantizer: Quantizer) -> Grid:
    """The grid of a quantizer with constant scales."""
    scheme, scale, zero_point = quantizer.scheme, quantizer.scale.tolist(), quantizer.zero_point.tolist()
    kind = (scheme.bits, scheme.signed, scheme.symmetric, scheme.granularity, scheme.qmin, scheme.qmax)
    return Grid(*kind, tuple(scale), tuple(zero_point), quantizer.axis)


def real_values(quantizer: Quantizer, integers: Tensor) -> Tensor:
    """What the ``integers`` of a weight stand for, float32."""
    return dequantize(integers, quantizer.scale, quantizer.zero_point, quantizer.axis)


def float_weight(name: str, tensor: Tensor, count: int) -> Weight:
    """A weight that stayed float, with its first ``count`` values."""
    listed = tensor.flatten()[:count].tolist() if tensor.is_floating_point() else []
    values = tuple(
        Value(_index(i, tensor.shape), None, value=_finite(value)) for i, value in enumerate(listed)
    )
    return Weight(name, tuple(tensor.shape), _dtype(tensor), None, tensor.nbytes, values)


def integer_weight(
    name: str, example: Tensor, quantizer: Quantizer, integers: Tensor, source: Tensor | None, count: int
) -> Weight:
    """A quantized weight, with its first ``count`` values.

    ``example``: a tensor of its shape and type. ``source``: the float weight, None if unknown.
    """
    scale, zero_point, scheme, axis = quantizer.scale, quantizer.zero_point, quantizer.scheme, quantizer.axis
    real, grid = real_values(quantizer, integers), grid_of(quantizer)
    nearest = None if source is None else quantize(source, scale, zero_point, scheme, axis)
    values = []
    for number in range(min(count, integers.numel())):
        index = _index(number, integers.shape)
        channel = index[axis] if len(scale) > 1 else 0
        values.append(
            Value(
                index,
                None if source is None else _finite(source[index].item()),
                scale[channel].item(),
                int(zero_point[channel]),
                None if nearest is None else int(nearest[index]),
                int(integers[index]),
                real[index].item(),
            )
        )
    parameters = scale.nbytes + (0 if scheme.symmetric else zero_point.nbytes)
    size = -(-integers.numel() * scheme.bits // 8) + parameters
    same = furthest = None
    if nearest is not None:
        steps = (integers.int() - nearest.int()).abs()
        same = float((steps == 0).sum()) / max(steps.numel(), 1)
        furthest = int(steps.max()) if steps.numel() else 0
    return Weight(name, tuple(example.shape), _dtype(example), grid, size, tuple(values), same, furthest)


def bias_in_units(name: str, bias: Tensor, source: Tensor | None, unit: Tensor | None, count: int) -> Bias:
    """A bias with its first ``count`` values.

    ``source``: the float bias, None if unknown. ``unit``: the value of one unit of the int32 sums, by output
    channel, float64; None if the sums are float.
    """
    units = None if unit is None else (bias.double() / unit).round()
    exact = None if unit is None or units is None else (units * unit).float() == bias
    values = []
    for channel in range(min(count, len(bias))):
        known = None if source is None else _finite(source[channel].item())
        step = None if unit is None else float(unit[channel])
        nearest = None if known is None or step is None else round(known / step)
        whole = int(units[channel]) if units is not None and exact is not None and exact[channel] else None
        values.append(BiasValue(channel, known, step, nearest, whole, bias[channel].item()))
    return Bias(name, len(bias), bias.nbytes, None if exact is None else bool(exact.all()), tuple(values))


def _index(number: int, shape: torch.Size) -> tuple[int, ...]:
    """The index of a value of a tensor by its place in the flattened one."""
    return tuple(int(place) for place in np.unravel_index(number, tuple(shape)))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
