"""Ranges: one streaming pass over the calibration data, and the estimators that turn it into ranges.

What is kept per tensor is its extremes, their moving averages and a histogram of fixed size, so memory does
not grow with the data.
"""

import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from zeropoint import graph as fx
from zeropoint.batches import gathered, inputs_of
from zeropoint.errors import InputError, InputWarning, first_line
from zeropoint.memory import keeping_freed
from zeropoint.operators import aten
from zeropoint.scheme import Scheme, choose_parameters
from zeropoint.sizes import input_shapes, misfit

BINS = 4096  # even, so that doubling the range merges whole pairs of bins
SAMPLED = 1 << 17  # values of a tensor that the histogram takes in of one batch, at most about
GATHERED = 8  # items at a time: two thirds of the time of one by one in ResNet-50
AVERAGING = 0.01  # weight of a new batch in the moving averages: Jacob et al. 2018, section 3.1
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
            self.reach = 2.0 ** torch.frexp(torch.tensor(largest)).exponent.item()
        while largest >= self.reach:
            quarter = BINS // 4
            merged = self.histogram.reshape(-1, 2).sum(1)
            self.histogram = torch.nn.functional.pad(merged, (quarter, quarter))
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
    ends = torch.linspace(
        1.0, 0.2, 81, dtype=torch.float64
    )  # the widest range wins among equals: it comes first
    whole_low, whole_high = statistics.low * ends, statistics.high * ends
    low, high = whole_low[0], whole_high[0]
    for moves_low, moves_high in [(True, True)] if scheme.symmetric else [(False, True), (True, False)] * 2:
        lows = whole_low if moves_low else low.expand_as(ends)
        highs = whole_high if moves_high else high.expand_as(ends)
        best = int(cost(statistics, lows, highs, scheme).argmin())
        low, high = lows[best], highs[best]
    return low.item(), high.item()


def _squared_error(statistics: Statistics, lows: Tensor, highs: Tensor, scheme: Scheme) -> Tensor:
    seen = statistics.histogram > 0
    centers, counts = statistics.centers[seen], statistics.histogram[seen]
    scale, zero_point = (part.double().unsqueeze(1) for part in choose_parameters(lows, highs, scheme))
    integers = (torch.round(centers / scale) + zero_point).clamp(scheme.qmin, scheme.qmax)
    return (((integers - zero_point) * scale - centers) ** 2 * counts).sum(1)


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
    return torch.xlogy(clipped, clipped / quantized).sum(1)


ESTIMATORS: dict[str, Callable[[Statistics, Scheme], Range]] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
_NEED_HISTOGRAM = {"percentile", "mse", "entropy"}


class _Observer(fx.Watching):
    """Runs a graph and shows the values of the named nodes to their Statistics.

    Where a ReLU comes behind an addition, what it cuts off needs no range: for x, which is added to y, they
    are shown max(x, min(-y, 0)), of which the ReLU makes the same. ResNet-20 gains 0.6 dB at W8A8.
    """

    def __init__(self, module: GraphModule, statistics: dict[str, Statistics], with_histogram: bool) -> None:
        self.cut = _cut_off(module) & statistics.keys()
        super().__init__(module, statistics.keys() - self.cut, self._add)
        self.statistics, self.with_histogram = statistics, with_histogram

    def run_node(self, n: Node) -> Any:
        if n.target is aten.add.Tensor:
            for x, y in itertools.permutations(n.all_input_nodes, 2):
                if x.name in self.cut:
                    value, least = self.env[x], self.env[y].neg().clamp_max_(0)
                    # In place where it fits: another new tensor of 26 MB would take six times as long.
                    fits = least.shape == value.shape and least.dtype == value.dtype
                    self._add(x, torch.maximum(value, least, out=least if fits else None))
        return super().run_node(n)

    def _add(self, node: Node, value: Tensor) -> None:
        try:
            self.statistics[node.name].add(value, self.with_histogram)
        except ValueError as error:
            place = fx.module_name(node)
            raise InputError(f"{error} in the values of {place} on calibration data") from error


def _cut_off(module: GraphModule) -> set[str]:
    """The names of values that are nothing but added to another of their shape, with a ReLU behind."""
    names = set()
    for node in module.graph.nodes:
        addition = node.args[0] if node.target is aten.relu.default else None
        if isinstance(addition, Node) and addition.target is aten.add.Tensor:
            operands = [operand for operand in addition.all_input_nodes if fx.is_float(operand)]
            alone = len(addition.users) == 1 and len(operands) == 2 and not addition.kwargs
            if alone and fx.item_sizes(operands[0]) == fx.item_sizes(operands[1]):
                names |= {operand.name for operand in operands if len(operand.users) == 1}
    return names


def observe(
    module: GraphModule,
    sources: Collection[tuple[str, Scheme]],
    calibration: Iterable[Any],
    estimator: str,
    *,
    shared: Mapping[str, str] | None = None,
) -> dict[tuple[str, Scheme], tuple[Tensor, Tensor]]:
    """The (scale, zero point) of each source node's values in a scheme, over the calibration batches.

    Sources to which ``shared`` gives the same name are observed as if they were one.

    Raises InputError where there is no batch, or one that holds NaN or Inf or does not fit the model. Warns
    of data that says too little: one item, or the same value throughout a source.
    """
    groups = {source: (shared or {}).get(source, source) for source, _ in sources}
    owned = {group: Statistics() for group in groups.values()}
    statistics = {source: owned[group] for source, group in groups.items()}
    observer = _Observer(module, statistics, estimator in _NEED_HISTOGRAM)
    # The moving average is one of batches as they are.
    rows = run_on(observer, calibration, alone=estimator == "moving-average")
    if not rows:
        raise InputError("the calibration set is empty; give at least one batch")
    _warn_of_little(module, statistics, rows)
    parameters = {}
    for source, scheme in sources:
        low, high = (torch.tensor([end]) for end in ESTIMATORS[estimator](statistics[source], scheme))
        parameters[source, scheme] = choose_parameters(low, high, scheme)
    return parameters


@keeping_freed()
def run_on(
    observer: Interpreter, calibration: Iterable[Any], *, alone: bool = False, items: int | None = None
) -> int:
    """Runs a graph on calibration batches, up to so many ``items``, and gives the number of them.

    Small batches are put together where the batch size is free, unless ``alone``. Raises InputError that says
    in which batch the inputs do not fit, or the model fails on them.
    """
    last, rows, module = -1, 0, cast(GraphModule, observer.module)

    def checked() -> Iterator[tuple[Tensor, ...]]:
        nonlocal last
        for last, inputs in enumerate(inputs_of(calibration)):
            check_inputs(module, inputs, f"calibration batch {last}")
            yield inputs

    is_free = not alone and _is_batch_free(module)
    with torch.no_grad():
        for inputs in gathered(checked(), GATHERED) if is_free else checked():
            try:
                observer.run(*inputs)
            except (RuntimeError, IndexError) as error:
                raise InputError(
                    f"the model fails on calibration batch {last}: {first_line(error)}"
                ) from error
            rows += len(inputs[0]) if inputs[0].dim() else 1
            if items is not None and rows >= items:
                break
    return rows


def _warn_of_little(module: GraphModule, statistics: dict[str, Statistics], rows: int) -> None:
    if rows == 1:
        message = "calibrated on a single input: others may go beyond its ranges; give some hundreds"
        warnings.warn(InputWarning(message), stacklevel=3)
    nodes = {node.name: node for node in module.graph.nodes}
    still = [fx.module_name(nodes[name]) for name, seen in statistics.items() if not seen.varies]
    if still:
        more = f" and {len(still) - 1} more" if len(still) > 1 else ""
        message = (
            f"on the calibration data the values of {still[0]}{more} are all the same, so that nothing is"
            " known of their range; give data like that which the model will see"
        )
        warnings.warn(InputWarning(message), stacklevel=3)


def _is_batch_free(module: GraphModule) -> bool:
    """Whether every input's first axis may have any size."""
    inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    return all(value.dim() and not isinstance(value.shape[0], int) for value in inputs)


def check_inputs(module: GraphModule, inputs: tuple[Tensor, ...], where: str) -> None:
    """Raises InputError where inputs do not fit the captured graph: number, shape, dtype, NaN or Inf."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(placeholders):
        raise InputError(f"{where} has {len(inputs)} inputs; the model takes {len(placeholders)}")
    for tensor, placeholder, shape in zip(inputs, placeholders, input_shapes(module), strict=True):
        dtype = placeholder.meta["val"].dtype
        if wrong := misfit(tensor, shape):
            raise InputError(f"{where} {wrong}")
        if tensor.dtype != dtype:
            raise InputError(f"{where} is of {tensor.dtype}; the model takes {dtype}")
        if not tensor.numel():
            raise InputError(f"{where} is empty; leave it out")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{where} holds NaN or Inf; clean the data")


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
