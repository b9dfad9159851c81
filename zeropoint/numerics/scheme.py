"""Scheme: how a tensor is mapped to integers, and the arithmetic of that mapping.

The affine mapping (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", eq. 1): ``real = scale * (integer - zero_point)``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zeropoint.errors import InputError

Granularity = Literal["per-tensor", "per-channel"]

# A scale below this makes products of two scales denormal, which the int8 kernels flush to zero.
SMALLEST_SCALE = 2.0**-60


@dataclass(frozen=True)
class Scheme:
    """Bits, signedness, symmetry and granularity of a quantizer.

    Raises InputError for bits outside 2 to 16 or an unknown granularity.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    granularity: Granularity = "per-tensor"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise InputError(f"{self.bits} bits cannot be quantized to; give 2 to 16")
        if self.granularity not in ("per-tensor", "per-channel"):
            raise InputError(f"unknown granularity '{self.granularity}'; valid: per-tensor, per-channel")

    @property
    def qmin(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The largest integer."""
        return self.qmin + (1 << self.bits) - 1


def choose_parameters(low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The (scale, zero_point) with which ``scheme`` covers ``[low, high]``, elementwise.

    ``low`` and ``high`` are float tensors of any one shape; the scale comes back as float32 and the zero
    point as int32, both of that shape. The range is first widened to hold zero, so that zero (padding, a
    ReLU's output) is exact: Jacob et al. 2018, section 2.1. A range of width zero gets scale 1.
    """
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    if scheme.symmetric:
        # Zero sits in the middle, but for unsigned integers and a range without negative values: at the end.
        offset = torch.full_like(low, (scheme.qmin + scheme.qmax + 1) // 2)
        middle = offset if scheme.signed else torch.where(low < 0, offset, scheme.qmin)
        scale = torch.maximum(-low, high) / (scheme.qmax - middle)
        zero_point = middle.to(torch.int32)
    else:
        scale = (high - low) / (scheme.qmax - scheme.qmin)
        safe = scale.clamp(min=SMALLEST_SCALE)
        zero_point = (scheme.qmin - torch.round(low / safe)).clamp(scheme.qmin, scheme.qmax).to(torch.int32)
    scale = torch.where(high > low, scale.clamp(min=SMALLEST_SCALE), torch.ones_like(scale))
    return scale.float(), zero_point


def off_middle(scale: Tensor, zero_point: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The parameters with a zero point in the middle of the integers moved one down, and nothing cut off."""
    middle = (scheme.qmin + scheme.qmax + 1) // 2
    levels = middle - scheme.qmin  # that were below zero, and reach as far with one less
    moves = zero_point == middle
    return torch.where(moves, scale * (levels / (levels - 1)), scale), zero_point - moves.to(zero_point.dtype)


def per_channel_shape(parameters: Tensor, dimensions: int, axis: int) -> list[int]:
    """The shape that broadcasts one value per channel, or a single value, over so many dimensions."""
    if parameters.numel() == 1:
        return [1] * dimensions
    return [-1 if dimension == axis % dimensions else 1 for dimension in range(dimensions)]


def quantize(tensor: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme, axis: int = 0) -> Tensor:
    """The int8 or uint8 integers ``clamp(round(tensor / scale) + zero_point)`` (Jacob et al. 2018, eq. 12).

    ``scheme`` has 8 bits at most.
    ``scale`` and ``zero_point`` hold one value, or one per channel along ``axis``. Rounds half to even, and
    multiplies by the reciprocal in float32, as ATen's fake-quantize does, so both give the same integers.
    """
    shape = per_channel_shape(scale, tensor.dim(), axis)
    inverse = (1.0 / scale.float()).reshape(shape)
    integers = torch.round(tensor.float() * inverse) + zero_point.reshape(shape)
    return integers.clamp(scheme.qmin, scheme.qmax).to(torch.int8 if scheme.signed else torch.uint8)


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 0) -> Tensor:
    """The float32 values ``scale * (integers - zero_point)`` (Jacob et al. 2018, eq. 1)."""
    shape = per_channel_shape(scale, integers.dim(), axis)
    return (integers.float() - zero_point.reshape(shape)) * scale.reshape(shape)
