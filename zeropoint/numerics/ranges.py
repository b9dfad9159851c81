"""Ranges: one streaming pass over the calibration data, and the estimators that turn it into ranges.

What is kept per tensor is its extremes, their moving averages and a histogram of fixed size, so memory does
not grow with the data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zeropoint.numerics.scheme import Scheme, choose_parameters

BINS = 4096  # even, so that doubling the range merges whole pairs of bins
LEAST = -110  # the least exponent of a histogram's reach: BINS over less is no float32
SAMPLED = 1 << 17  # values of a tensor that the histogram takes in of one batch, at most about
AVERAGING = 0.01  # weight of a new batch in the moving averages: Jacob et al. 2018, section 3.1
# Bits, above which the whole range is best: a step is no wider than a few bins there, of which the samples in
# the histogram do not tell what clipping costs. MobileNetV2 at W8A16 had 21.7 dB, and has 37.4 so (Intel Xeon
# with VNNI, November 2026).
FINE = 8
KEPT = 0.9999  # share of values that `percentile` keeps on each side: Wu et al. 2020 (arXiv 2004.09602)


@dataclass
class Statistics:
    """What has been seen of one tensor. The histogram has BINS bins over -reach to reach, a power of two.

    Since ranges double, the histogram is exact whatever order the data came in. Of a large tensor it counts
    values at even distances; the extremes are those of all.
    """

    low: float = 0.0
    high: float = 0.0
    varies: bool = False
    average_low: float | None = None
    average_high: float = 0.0
    reach: float = 0.0
    histogram: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def add(self, tensor: Tensor, with_histogram: bool) -> None:
        """Takes in one batch of values. Raises ValueError where one is NaN or infinite."""
        # As it lies in memory: in another order it would be read ten times slower.
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        values = tensor.detach().permute(order).flatten()
        low, high = (float(value) for value in torch.aminmax(values))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # false for NaN, too
            raise ValueError("NaN or Inf")
        self.varies |= low < high or self.average_low not in (None, low)
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.average_low is None:
            self.average_low, self.average_high = low, high
        else:
            self.average_low += AVERAGING * (low - self.average_low)
            self.average_high += AVERAGING * (high - self.average_high)
        if with_histogram:
            self._count(values, max(-low, high))

    def _count(self, values: Tensor, largest: float) -> None:
        if not self.reach:
            exponent = torch.frexp(torch.tensor(largest)).exponent.item()
            self.reach = 2.0 ** max(exponent, LEAST)
        while largest >= self.reach:
            self.histogram = _halved(self.histogram)
            self.reach *= 2
        # All would take a tenth of a pass over ResNet-50. An odd step visits every row and channel.
        values = values[:: values.numel() // SAMPLED | 1] if values.numel() > SAMPLED else values
        # Scaling by a power of two and rounding down are exact: no value lands in its neighbour's bin.
        # In int32, far faster than int64.
        bins = (values.float() * (BINS // 2 / self.reach)).floor_().int().add_(BINS // 2)
        self.histogram += torch.bincount(bins, minlength=BINS)

    @property
    def centers(self) -> Tensor:
        """The middle of each bin, float64."""
        step = 2 * self.reach / BINS
        return torch.arange(BINS, dtype=torch.float64) * step - self.reach + step / 2


def merged(parts: Sequence[Statistics]) -> Statistics:
    """What has been seen of several tensors, as if they were one."""
    averages = [part.average_low for part in parts if part.average_low is not None]
    whole = Statistics(
        min(part.low for part in parts),
        max(part.high for part in parts),
        any(part.varies for part in parts),
        min(averages, default=None),
        max(part.average_high for part in parts),
        max(part.reach for part in parts),
    )
    for part in parts:
        histogram, reach = part.histogram, part.reach
        while 0 < reach < whole.reach:
            histogram, reach = _halved(histogram), 2 * reach
        whole.histogram += histogram
    return whole


def _halved(histogram: Tensor) -> Tensor:
    """The histogram over twice the reach: whole pairs of bins become one."""
    return torch.nn.functional.pad(histogram.reshape(-1, 2).sum(1), (BINS // 4, BINS // 4))


Range = tuple[float, float]


def minmax(statistics: Statistics, _: Scheme) -> Range:
    """Everything that was seen."""
    return statistics.low, statistics.high


def moving_average(statistics: Statistics, _: Scheme) -> Range:
    """The batches' extremes, averaged with exponential decay (Jacob et al. 2018, section 3.1)."""
    return statistics.average_low or 0.0, statistics.average_high


def percentile(statistics: Statistics, _: Scheme) -> Range:
    """All but the outermost 0.01% of values on each side (Wu et al. 2020, section 5)."""
    shares = statistics.histogram.cumsum(0) / statistics.histogram.sum().clamp(min=1)
    step = 2 * statistics.reach / BINS
    first = int(torch.searchsorted(shares, 1 - KEPT))
    last = int(torch.searchsorted(shares, KEPT))
    low, high = first * step - statistics.reach, (last + 1) * step - statistics.reach
    return max(low, statistics.low), min(high, statistics.high)


def mse(statistics: Statistics, scheme: Scheme) -> Range:
    """The range with the smallest mean squared quantization error over the histogram.

    A search along the upper and then the lower end, repeated (Banner et al. 2019, arXiv 1810.05723, minimise
    the same error under an assumed distribution; here the distribution is the one measured).
    """
    return _search(statistics, scheme, _squared_error)


def entropy(statistics: Statistics, scheme: Scheme) -> Range:
    """The range with the smallest Kullback-Leibler divergence of the quantized from the clipped distribution.

    After Migacz 2017, "8-bit inference with TensorRT", with the search of ``mse``.
    """
    return _search(statistics, scheme, _divergence)


def _search(
    statistics: Statistics, scheme: Scheme, cost: Callable[[Statistics, Tensor, Tensor, Scheme], Tensor]
) -> Range:
    if scheme.bits > FINE:
        return minmax(statistics, scheme)
    ends = torch.linspace(
        1.0, 0.2, 81, dtype=torch.float64
    )  # the widest range wins among equals: it comes first
    whole_low, whole_high = statistics.low * ends, statistics.high * ends
    low, high = whole_low[0], whole_high[0]
    found: dict[tuple[bool, float], int] = {}  # by which end moves and where the other is: often asked twice
    for moves_low, moves_high in [(True, True)] if scheme.symmetric else [(False, True), (True, False)] * 2:
        lows = whole_low if moves_low else low.expand_as(ends)
        highs = whole_high if moves_high else high.expand_as(ends)
        asked = moves_high, float(low if moves_high else high)
        if asked not in found:
            stays = not (lows[0] < lows[-1] or highs[-1] < highs[0])  # nothing is below, or above, zero
            found[asked] = 0 if stays else int(cost(statistics, lows, highs, scheme).argmin())
        low, high = lows[found[asked]], highs[found[asked]]
    return low.item(), high.item()


def _squared_error(statistics: Statistics, lows: Tensor, highs: Tensor, scheme: Scheme) -> Tensor:
    seen = statistics.histogram > 0
    centers, counts = statistics.centers[seen], statistics.histogram[seen]
    scale, zero_point = (part.double().unsqueeze(1) for part in choose_parameters(lows, highs, scheme))
    # In place, which takes two thirds of the time.
    integers = (centers / scale).round_().add_(zero_point).clamp_(scheme.qmin, scheme.qmax)
    return integers.sub_(zero_point).mul_(scale).sub_(centers).square_() @ counts


def _divergence(statistics: Statistics, lows: Tensor, highs: Tensor, scheme: Scheme) -> Tensor:
    """KL(clipped || quantized), where each level's mass is spread evenly over the bins that fall on it.

    What a range clips counts at its ends in the clipped distribution only: the price of clipping it. Zeros,
    of which a ReLU gives many, are exact under any range: their bin counts no more than its neighbours.
    """
    histogram, middle = statistics.histogram.clone(), BINS // 2
    histogram[middle] = min(histogram[middle], max(histogram[middle - 1], histogram[middle + 1]))
    seen = histogram > 0
    if not seen.any():
        return torch.zeros_like(lows)
    centers, counts = statistics.centers[seen], histogram[seen]
    measured = counts / counts.sum()
    scale, zero_point = (part.double().unsqueeze(1) for part in choose_parameters(lows, highs, scheme))
    levels = (torch.round(centers / scale) + zero_point).clamp(scheme.qmin, scheme.qmax).long() - scheme.qmin
    below, above = centers < lows.unsqueeze(1), centers > highs.unsqueeze(1)
    inside = ~(below | above)
    mass = torch.zeros(len(lows), scheme.qmax - scheme.qmin + 1, dtype=torch.float64)
    width = mass.clone()
    mass.scatter_add_(1, levels, measured.expand_as(levels) * inside)
    width.scatter_add_(1, levels, inside.double())
    quantized = (mass / width.clamp(min=1)).gather(1, levels) * inside
    quantized = (quantized / quantized.sum(1, keepdim=True)).clamp(min=1e-12)
    clipped = measured * inside
    first = below.sum(1, keepdim=True).clamp(max=len(centers) - 1)
    last = (len(centers) - 1 - above.sum(1, keepdim=True)).clamp(min=0)
    clipped.scatter_add_(1, first, (measured * below).sum(1, keepdim=True))
    clipped.scatter_add_(1, last, (measured * above).sum(1, keepdim=True))
    divergence = torch.xlogy(clipped, clipped / quantized).sum(1)
    # A range with a single bin in it would lose nothing, and none tells nothing.
    return torch.where(inside.sum(1) > 1, divergence, torch.inf)


ESTIMATORS: dict[str, Callable[[Statistics, Scheme], Range]] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
NEED_HISTOGRAM = {"percentile", "mse", "entropy"}


def weight_minmax(weight: Tensor, scheme: Scheme, axis: int) -> tuple[Tensor, Tensor]:
    """(scale, zero point) that cover each channel's extremes."""
    flat = _by_channel(weight, scheme, axis)
    return choose_parameters(flat.amin(1), flat.amax(1), scheme)


def weight_mse(weight: Tensor, scheme: Scheme, axis: int) -> tuple[Tensor, Tensor]:
    """(scale, zero point) with the smallest squared error of each channel, over 81 sizes of its range."""
    flat = _by_channel(weight, scheme, axis).double()
    low, high = flat.amin(1), flat.amax(1)
    best = torch.full_like(low, torch.inf)
    shrink = torch.ones_like(low)
    for ratio in torch.linspace(1.0, 0.2, 81).tolist():
        parameters = choose_parameters(low * ratio, high * ratio, scheme)
        scale, zero_point = (part.double().unsqueeze(1) for part in parameters)
        integers = (torch.round(flat / scale) + zero_point).clamp(scheme.qmin, scheme.qmax)
        error = (((integers - zero_point) * scale - flat) ** 2).sum(1)
        shrink, best = torch.where(error < best, ratio, shrink), torch.minimum(error, best)
    return choose_parameters(low * shrink, high * shrink, scheme)


def _by_channel(weight: Tensor, scheme: Scheme, axis: int) -> Tensor:
    by_channel = scheme.granularity == "per-channel"
    return weight.movedim(axis, 0).flatten(1) if by_channel else weight.reshape(1, -1)


WEIGHT_ESTIMATORS: dict[str, Callable[[Tensor, Scheme, int], tuple[Tensor, Tensor]]] = {
    "minmax": weight_minmax,
    "mse": weight_mse,
}
