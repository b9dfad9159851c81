"""Causes: why a layer loses accuracy by quantization, from the statistics of its operands."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from zeropoint.graph.operators import CLAMPS, SOFTMAX, aten
from zeropoint.measure.layers import Distribution, of_activation, of_weight
from zeropoint.measure.layerwise import Seen
from zeropoint.numerics.ranges import Statistics
from zeropoint.numerics.scheme import Scheme

# From here on a cause is one. The networks of the tests and the demo have none at 8 bits below these.
SPREAD = 10.0  # largest channel's range over the median one's
OUTLIER = 8.0  # largest magnitude over that of all but a thousandth of the values
CLIPPED, CLIPPED_WEIGHTS = 0.01, 0.05  # share of values beyond the grid: few bits gain by some
UNUSED = 0.5  # share of the grid that no value reaches
LEVELS = 1 / 16  # of the grid that lie between the 5th and the 95th percentile
SATURATED = 0.1  # share of a clip's outputs at its upper limit
DEAD = 0.05  # share of channels that are zero throughout


@dataclass(frozen=True)
class Cause:
    """A ``name`` from the list below, the measured ``detail``, and of which operand: "input", "weight"."""

    name: str
    detail: str
    operand: str


OVERFLOW = "saturation"
SPREAD_OUT = "wide channel spread"
OUTLIERS = "activation outliers"
CLIPS = "clipped values"
UNUSED_RANGE = "unused range"
DEAD_CHANNELS = "dead channels"
FEW_LEVELS = "few effective levels"
SATURATED_CLIP = "saturated ReLU6"
NORM_OR_SOFTMAX = "LayerNorm or softmax values"


def causes(seen: Seen, float_weights: dict[str, Tensor]) -> tuple[Cause, ...]:
    """What is unusual about the operands of a layer, the most telling first."""
    found: list[Cause] = []
    if seen.pairs is not None:
        number = len(seen.pairs.first)
        detail = f"{number} pairs of neighbouring weights can overflow 16 bits on this processor"
        found.append(Cause(OVERFLOW, detail, "weight"))
    for quantizer in seen.quantizers:
        if quantizer.is_weight:
            weight = float_weights[str(quantizer.source.target)]
            found += _of_weight(of_weight(weight, quantizer), quantizer.scheme, quantizer.axis, weight)
        elif quantizer.node in seen.operands:
            statistics, channels = seen.operands[quantizer.node], seen.channels[quantizer.node]
            distribution = of_activation(statistics, quantizer)
            found += _of_activation(distribution, statistics, channels, quantizer.source)
    return tuple(sorted(found, key=lambda cause: _ORDER.index(cause.name)))


_ORDER = [
    OVERFLOW, CLIPS, OUTLIERS, SPREAD_OUT, UNUSED_RANGE, NORM_OR_SOFTMAX, SATURATED_CLIP, FEW_LEVELS,
    DEAD_CHANNELS,
]  # fmt: skip


def _of_weight(distribution: Distribution, scheme: Scheme, axis: int, weight: Tensor) -> list[Cause]:
    found = []
    largest = weight.movedim(axis, 0).flatten(1).abs().amax(1)
    if scheme.granularity == "per-tensor" and (spread := _spread(largest)) >= SPREAD:
        detail = f"one channel reaches {spread:.0f} times as far as the median one, and they share a scale"
        found.append(Cause(SPREAD_OUT, detail, "weight"))
    dead = float((largest == 0).float().mean())
    if dead >= DEAD:
        found.append(Cause(DEAD_CHANNELS, f"{dead:.0%} of the outputs have no weights but zeros", "weight"))
    if distribution.clipped >= CLIPPED_WEIGHTS:
        found.append(Cause(CLIPS, f"{distribution.clipped:.1%} of the weights lie beyond the grid", "weight"))
    return found


def _of_activation(
    distribution: Distribution, statistics: Statistics, channels: Tensor, source: Node
) -> list[Cause]:
    def cause(name: str, detail: str) -> Cause:
        return Cause(name, detail, "input")

    found = []
    (scale,), (zero_point,) = distribution.scale, distribution.zero_point
    low, high = ((end - zero_point) * scale for end in (distribution.qmin, distribution.qmax))
    if distribution.clipped >= CLIPPED:
        found.append(
            cause(CLIPS, f"{distribution.clipped:.1%} of the values lie beyond {low:.3g} to {high:.3g}")
        )
    inner_low, inner_high = _between(statistics, 0.0005)
    inner = max(-inner_low, inner_high, 1e-30)
    largest = max(-statistics.low, statistics.high)
    if largest >= OUTLIER * inner:
        ends = f"the largest is {largest:.3g}, all but a thousandth lie below {inner:.3g}"
        found.append(cause(OUTLIERS, ends))
    spread = _spread(channels)
    if spread >= SPREAD:
        found.append(
            cause(
                SPREAD_OUT, f"one channel reaches {spread:.0f} times as far as the median one, of one scale"
            )
        )
    used = (min(statistics.high, high) - max(statistics.low, low)) / (high - low)
    if used <= 1 - UNUSED:
        found.append(
            cause(UNUSED_RANGE, f"values take {max(used, 0.0):.0%} of the grid of {low:.3g} to {high:.3g}")
        )
    dead = float((channels == 0).float().mean())
    if dead >= DEAD and len(channels) > 1:
        found.append(cause(DEAD_CHANNELS, f"{dead:.0%} of the channels are zero throughout"))
    lower, upper = _between(statistics, 0.05)
    levels = (upper - lower) / scale
    if statistics.varies and levels < LEVELS * (distribution.qmax - distribution.qmin + 1):
        found.append(cause(FEW_LEVELS, f"nine tenths of the values share {levels:.1f} levels of the grid"))
    found += _by_origin(source, statistics)
    return found


def _by_origin(source: Node, statistics: Statistics) -> list[Cause]:
    if source.target in (aten.layer_norm.default, *SOFTMAX):
        kind = "LayerNorm" if source.target is aten.layer_norm.default else "softmax"
        return [Cause(NORM_OR_SOFTMAX, f"the values come from a {kind}", "input")]
    top = CLAMPS[source.target](*source.args)[1] if source.target in CLAMPS else None
    if top is not None:
        share = statistics.histogram[statistics.centers > 0.999 * top].sum() / statistics.histogram.sum()
        if share >= SATURATED:
            return [Cause(SATURATED_CLIP, f"{float(share):.0%} of the values are cut at {top:g}", "input")]
    return []


def _spread(largest: Tensor) -> float:
    """The largest channel's range over the median one's, of those that are not zero throughout."""
    alive = largest[largest > 0]
    return float(alive.max() / alive.median()) if len(alive) > 1 else 1.0


def _between(statistics: Statistics, share: float) -> tuple[float, float]:
    """The limits between which all values lie but ``share`` at each side."""
    shares = statistics.histogram.cumsum(0) / statistics.histogram.sum().clamp(min=1)
    ends = torch.searchsorted(shares, torch.tensor([share, 1 - share], dtype=shares.dtype))
    low, high = statistics.centers[ends.clamp(max=len(shares) - 1)].tolist()
    return low, high
