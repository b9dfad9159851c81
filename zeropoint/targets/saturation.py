"""Saturation: sums of two products that overflow 16 bits on processors without VNNI, and how to avoid them.

``vpmaddubsw`` multiplies unsigned by signed bytes and adds two neighbouring products in 16 bits, which
saturate (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, PMADDUBSW). An activation of
255 leaves two weights of one sign room for 128 together: 255 · 128 = 32,640, and 255 · 129 = 32,895 is more
than 32,767. Weights of different signs cannot overflow.

Which two weights are neighbours was seen by giving layers two weights of 127, pair by pair (AMD EPYC with
AVX2, November 2026; OpenVINO 2026.4.1, ONNX Runtime 1.32.0, torch 2.13.0): the weights of input channels 2k
and 2k + 1, at one place of the kernel, in all three engines. If a kernel of several places has an odd number
of input channels, some engines go on with the next place, so that any two may be neighbours. A depthwise
convolution has one input to an output at each place, and its kernels add in 32 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional

from zeropoint.graph.operators import FAKE_QUANTIZE, Weighted, ungrouped, weight_of, weighted
from zeropoint.targets.processor import PROCESSORS

LARGEST = 255  # that an activation is, as kernels see it: signed ones are shifted by 128 first
TOGETHER = 32767 // LARGEST  # what two weights of one sign may add up to: 128
ALONE = TOGETHER // 2  # what each may be where any two may be neighbours


@dataclass(frozen=True)
class Pairing:
    """Which weights of a layer a kernel multiplies and adds two at a time.

    ``order``: ``neighbours``, those of two input channels along ``axis``, the first and second, third and
    fourth, and so on; or ``any`` two of an output.
    """

    order: Literal["neighbours", "any"]
    axis: int


def pairings(module: GraphModule, processor: str) -> dict[str, Pairing]:
    """How kernels of a processor pair the weights of layers with quantized inputs, by the weight's name.

    Those that are added in 32 bits are not among them: all of them on a processor that does not saturate.
    """
    if processor not in PROCESSORS or not PROCESSORS[processor].saturates:
        return {}
    found: dict[str, Pairing] = {}
    for layer in module.graph.nodes:
        description = weighted(layer)
        if description is None or cast(Node, layer.args[description.input]).target not in FAKE_QUANTIZE:
            continue
        weight = ungrouped(weight_of(layer))
        while weight.target in FAKE_QUANTIZE:
            weight = cast(Node, weight.args[0])
        if one := _pairing(layer, description, weight.meta["val"].shape):
            name = str(weight.target)
            found[name] = one if found.get(name, one) == one else Pairing("any", one.axis)
    return found


def _pairing(layer: Node, description: Weighted, shape: torch.Size) -> Pairing | None:
    """How kernels pair the weights of a layer, of this shape."""
    axis = len(shape) - 2 if description.channel_axis == -1 else 1 - description.channel_axis
    if description.family == "linear":
        return Pairing("neighbours", axis)
    groups = cast(int, layer.args[6]) if len(layer.args) > 6 else 1
    inputs = shape[0] // groups if axis == 0 else shape[1]
    if inputs == 1 and shape[0] == groups and axis == 1:  # depthwise
        return None
    in_order = inputs % 2 == 0 or all(size == 1 for size in shape[2:])
    return Pairing("neighbours" if in_order else "any", axis)


def safe_scale(weight: Tensor, scale: Tensor, pairing: Pairing, channel_axis: int) -> Tensor:
    """``scale``, or where weights in units of it could overflow, the least one with which they cannot.

    It holds one value, or one for each channel along ``channel_axis``; its weights are symmetric, 8-bit.
    """
    by_channel = 0 if scale.numel() == 1 else channel_axis
    if pairing.order == "any":
        largest = weight.abs().movedim(by_channel, 0).flatten(1).amax(1) / ALONE
    else:
        first, second = neighbours(weight, pairing.axis)
        positive = first.clamp(min=0) + second.clamp(min=0)
        sums = torch.maximum(positive, -(first.clamp(max=0) + second.clamp(max=0)))
        largest = sums.movedim(by_channel, 0).flatten(1).amax(1) / TOGETHER
    largest = largest.amax().reshape(1) if scale.numel() == 1 else largest
    return torch.maximum(scale, largest.to(scale.dtype))


def within_limits(levels: Tensor, pairing: Pairing) -> Tensor:
    """The nearest weights, in units of their scale, that cannot overflow; rounded they cannot either.

    What two neighbours are together above the limit is taken off both, half of it each.
    """
    if pairing.order == "any":
        return levels.clamp(-ALONE, ALONE)
    first, second = neighbours(levels, pairing.axis)
    above = (first.clamp(min=0) + second.clamp(min=0) - TOGETHER).clamp(min=0) * (first > 0) * (second > 0)
    below = (first.clamp(max=0) + second.clamp(max=0) + TOGETHER).clamp(max=0) * (first < 0) * (second < 0)
    if not (above.any() or below.any()):
        return levels
    move = ((above + below) / 2).repeat_interleave(2, pairing.axis)
    return levels - move.narrow(pairing.axis, 0, levels.shape[pairing.axis])


class Room:
    """The range left for each weight of some outputs while they are rounded one after another.

    ``outputs`` are (groups, outputs), each of ``inputs`` channels by ``area`` places, in this order.
    """

    def __init__(self, pairing: Pairing, outputs: Sequence[int], inputs: int, area: int) -> None:
        self._pairs = pairing.order == "neighbours"
        channel = torch.arange(inputs)[:, None] ^ 1
        last = inputs * area  # the neighbour of one that is alone, which stays zero
        places = channel * area + torch.arange(area)
        self._neighbour = torch.where(channel < inputs, places, last).flatten()
        self._levels = torch.zeros(*outputs, last + 1, dtype=torch.float64)

    def fill(self, place: Tensor, levels: Tensor) -> Tensor:
        """``levels`` (groups, outputs, 1) cut to what their neighbours leave.

        ``place`` (groups,) tells which weight of an output they are.
        """
        if not self._pairs:
            return levels.clamp(-ALONE, ALONE)
        shape = levels.shape
        other = self._levels.gather(2, self._neighbour[place].reshape(-1, 1, 1).expand(shape))
        high, low = TOGETHER - other.clamp(min=0), -TOGETHER - other.clamp(max=0)
        levels = torch.minimum(torch.maximum(levels, low), high)
        self._levels.scatter_(2, place.reshape(-1, 1, 1).expand(shape), levels)
        return levels


def overflows(first: Tensor, second: Tensor) -> Tensor:
    """Whether two neighbouring weights, in units of their scale, can overflow together."""
    return (first * second > 0) & ((first + second).abs() > TOGETHER)


def neighbours(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The first and the second of each pair along an axis; zeros where the last one is alone."""
    if weight.shape[axis] % 2:
        weight = functional.pad(weight.movedim(axis, -1), (0, 1)).movedim(-1, axis)
    pairs = weight.unflatten(axis, (-1, 2))
    return pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)
