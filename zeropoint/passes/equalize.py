"""Equalization: channels scaled against one another where that leaves quantization less noise.

Between two layers a channel may be divided by any positive number if the weights that read it are multiplied
by it: the network stays the same, and its values fit a grid better. Nagel et al. 2019 (arXiv 1906.04721,
section 4.1) do so for convolutions with ReLUs between them, Xiao et al. 2022 ("SmoothQuant", arXiv
2211.10438, eq. 4) for linear layers after a layer norm. Here both are one rule, and what the noise of
rounding adds to the network's outputs, estimated from a few inputs, says how far to go.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.hidden import visible
from zeropoint.graph.macs import work
from zeropoint.graph.operators import WEIGHTED, aten, family, weighted
from zeropoint.graph.program import Program
from zeropoint.numerics.scheme import per_channel_shape
from zeropoint.passes.bfloat16 import observable
from zeropoint.passes.observe import run_on
from zeropoint.passes.regions import Region, output_axis, parameters, regions_of
from zeropoint.passes.rounding_noise import (
    Reader,
    Spread,
    is_convolution,
    joined,
    reader_of,
    step_of,
    weight_noise,
)
from zeropoint.passes.scalings import factors_of, insert_scalings, is_joined, is_scaling, remove_scalings
from zeropoint.passes.sensitivity import sensitivities
from zeropoint.targets.options import Options

ITEMS = 64  # items that are observed, at most
LEAST = 8  # items that are observed at least, however large the network
WORK = 1 << 36  # multiply-accumulates of the network on the items, at most
# Exponents: how much of the spread of activations moves to the weights, and of weights to activations.
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
WIDEST = 2.0**10  # the largest ratio of two channel ranges that is used
MARGIN = 0.8  # of a clip: channels are scaled up to it, since other inputs may reach further
# Of the range before a ReLU, what counts at least as the range behind it: other inputs may pass more. A unit
# that 64 items left dead was scaled up 80 times, and clipped on others: 33 dB for 48 (Deep Sets at W8A8, AMD
# EPYC with VNNI, November 2026).
PASSED = 1 / 16
FITTED = 0.3  # share of the noise of rounded weights that remains after fitting to data, about
LEAST_GAIN = 0.5  # a region is scaled only if its estimated noise falls below this share
# The same for a region with a concatenation, whose parts have to differ much: with 0.5 ShuffleNetV2 x0.5 of
# random weights has 10.5 dB, and 11.8 without (W8A8, AMD EPYC with AVX2, November 2026).
JOINED_GAIN = 0.1
# The same for a scaling, which costs a product with all of the values, and the widest ratio of its channels:
# no layer before it has to bear the inverse.
SCALING_GAIN, WIDEST_SCALING = 0.1, 2.0**20

_LIKE_RELU = {aten.gelu.default, aten.silu.default, aten.hardswish.default}


@dataclasses.dataclass(frozen=True)
class Equalized:
    """A Program of scaled channels, and the share of the estimated noise of rounding that remains."""

    program: Program
    remaining: float


def equalize(
    program: Program,
    calibration: Iterable[Any],
    options: Options,
    *,
    activations: bool = True,
    multiplies_free: bool = False,
) -> Equalized:
    """The float Program with channels scaled for quantization with ``options``; the same outputs.

    ``program`` itself comes back, and all of the noise, where there is nothing to gain.
    Without ``activations`` only the rounding of weights counts, and no products are added; if the engine
    ``multiplies_free``, they are before every linear layer that gains by one. A clip, as of
    ReLU6, stays what it is: channels that reach it are not scaled, the others at most up to it.
    """
    module, unchanged = fx.copy(program.module), Equalized(program, 1.0)
    regions = regions_of(module)
    evened = {reader for region in regions for reader in region.readers}
    scalings = insert_scalings(module, evened, everywhere=multiplies_free) if activations else []
    if scalings:
        regions = regions_of(module)
    regions = [region for region in regions if not _is_skipped(region, options)]
    if not regions:
        return unchanged
    changed = dataclasses.replace(program, module=module)
    seen = _observe(changed, regions, calibration)
    if not seen:  # no data: ranges will say so
        return unchanged
    slopes = sensitivities(changed, _sensitive(regions, seen), calibration)
    scaled: set[Node] = set()
    noise, remaining = 0.0, 0.0
    for region in regions:
        readers = [reader_of(module, layer, seen, slopes, options) for layer in region.readers]
        least_gain = _least_gain(region, multiplies_free)
        best = _best_scale(region, readers, seen, slopes, activations, least_gain)
        noise, remaining = noise + best.noise, remaining + best.remaining
        if best.scale is not None:
            _apply(module, region, best.scale)
            scaled.update(region.makers)
    if not scaled:
        return unchanged
    remove_scalings(module, set(scalings) - scaled)
    return Equalized(dataclasses.replace(program, module=module), remaining / noise)


def _is_skipped(region: Region, options: Options) -> bool:
    return any(options.layer(fx.module_name(reader)).float for reader in region.readers)


def _observe(program: Program, regions: list[Region], calibration: Iterable[Any]) -> dict[Node, Spread]:
    """Statistics of every value that may be rounded, over the first inputs."""
    rounded = {
        value: axis
        for region in regions
        for value, axis in region.axes.items()
        if value in region.clips
        or any(weighted(user) or family(user) in ("add", "avg_pool", "mean") for user in value.users)
    }
    cut = {
        value: cast(Node, _scaled(value).args[0])
        for value in rounded
        if family(_scaled(value)) == "relu" or _scaled(value).target in _LIKE_RELU
    }
    sources = set(cut.values())
    before = {node: axis for region in regions for node, axis in region.axes.items() if node in sources}
    before |= {cut[value]: axis for value, axis in rounded.items() if is_scaling(value) and value in cut}
    axes = {value.name: axis for value, axis in (before | rounded).items()}
    seen: dict[str, list[Spread]] = defaultdict(list)

    def show(node: Node, value: Tensor) -> None:
        rows = visible(value.movedim(axes[node.name], -1), watching.shown)
        if not rows.numel():  # all is padding
            return
        every = tuple(range(rows.dim() - 1))  # not flattened, which would copy an image
        low, high = rows.amin(every).float().clamp(max=0), rows.amax(every).float().clamp(min=0)
        squares = rows.float().square().sum(every)
        seen[node.name].append(Spread(low, high, squares, rows.numel() // rows.shape[-1]))

    items = max(LEAST, min(ITEMS, WORK // work(program)))
    watching = fx.Watching(observable(program, set(axes)), axes, show)
    run_on(watching, calibration, together=program.dynamic_batch, items=items)
    found = {value: joined(seen[value.name]) for value in before | rounded if value.name in seen}
    for value, source in cut.items():
        if value in found and source in found:
            room = PASSED * (found[source].high - found[source].low)
            found[value] = dataclasses.replace(found[value], high=found[value].high.maximum(room))
    return {value: found[value] for value in rounded if value in found}


def _sensitive(regions: list[Region], seen: dict[Node, Spread]) -> dict[str, int]:
    """The values whose noise counts, and the axis of the channels of each."""
    axes = {node: axis for region in regions for node, axis in region.axes.items() if node in seen}
    axes |= {layer: output_axis(layer) for region in regions for layer in region.readers}
    return {node.name: axis for node, axis in axes.items()}


@dataclasses.dataclass(frozen=True)
class _Scale:
    """What each channel is divided by, (channels,), None for nothing; estimated noise without and with it."""

    scale: Tensor | None
    noise: float
    remaining: float


def _best_scale(
    region: Region,
    readers: list[Reader],
    seen: dict[Node, Spread],
    slopes: dict[str, Tensor],
    activations: bool,
    least_gain: float,
) -> _Scale:
    """The scale of the least noise, where that is little enough."""
    values = {value: seen[value] for value in region.axes if value in seen and value.name in slopes}
    if not values:
        return _Scale(None, 0.0, 0.0)
    has_units = any(is_scaling(maker) and is_joined(_scaled(maker)) for maker in region.makers)
    relative = partial(_relative, widest=WIDEST_SCALING if has_units else WIDEST)
    ranges = [region.whole(node, relative(value.high - value.low)) for node, value in values.items()]
    spread = relative(torch.stack(ranges).amax(0))
    columns = [region.whole(one.input, relative(one.largest.amax(1).flatten())) for one in readers]
    weights = relative(torch.stack(columns).amax(0))
    reached, least = _clipped(region, seen)
    taken = [one.row.activation_bits for one in readers if one.row.takes_integers]
    bits = min((of for of in taken if of), default=None) if activations else None

    def of_weights(scale: Tensor) -> float:
        return FITTED * sum(weight_noise(one, scale[region.places[one.input]]) for one in readers)

    def of_values(scale: Tensor) -> float:
        if bits is None:
            return 0.0
        of = {node: scale[region.places[node]] for node in values}
        steps = [step_of(value, of[node], bits) for node, value in values.items()]
        scaled = [float((of[node] ** 2 * slopes[node.name]).sum()) for node in values]
        return sum(gain * step**2 / 12 for gain, step in zip(scaled, steps, strict=True))

    def noise(scale: Tensor) -> float:
        return of_weights(scale) + of_values(scale)

    before = noise(torch.ones_like(spread))
    # Where the channels of values are alike, weights that are already even have little to gain from them.
    if any(map(is_scaling, region.makers)) and of_values(spread) > least_gain * before:
        return _Scale(None, before, before)
    scales = [spread**own / weights**other for own, other in itertools.product(POWERS, POWERS)]
    found = min((torch.where(reached, 1.0, scale.maximum(least)) for scale in scales), key=noise)
    after = noise(found)
    return _Scale(found, before, after) if after < least_gain * before else _Scale(None, before, before)


def _least_gain(region: Region, multiplies_free: bool) -> float:
    """The share of its estimated noise below which that of a region has to fall."""
    if any(map(is_scaling, region.makers)):
        return LEAST_GAIN if multiplies_free else SCALING_GAIN
    return JOINED_GAIN if any(value.target is aten.cat.default for value in region.axes) else LEAST_GAIN


def _scaled(value: Node) -> Node:
    """What a product scales; any other value itself."""
    return cast(Node, value.args[0]) if is_scaling(value) else value


def _relative(ranges: Tensor, widest: float) -> Tensor:
    """Relative to the largest, and at least 1 / ``widest``."""
    return (ranges.double() / ranges.max().clamp(min=1e-30)).clamp(min=1 / widest)


def _clipped(region: Region, seen: dict[Node, Spread]) -> tuple[Tensor, Tensor]:
    """Which channels reach a clip, and the least divisor with which the others do not."""
    reached = torch.zeros(region.width, dtype=torch.bool)
    least = torch.zeros(region.width, dtype=torch.float64)
    for clip in region.clips:
        share = region.whole(clip, seen[clip].high / cast(float, clip.args[2]))
        reached, least = reached | (share >= 1 - 1e-6), least.maximum(share / MARGIN)
    return reached, least


def _apply(module: GraphModule, region: Region, scales: Tensor) -> None:
    for layer in {factors_of(maker): maker for maker in region.makers}.values():
        description, scale = weighted(layer), scales[region.places[layer]]
        axis = description.channel_axis if description else 0
        for part in parameters(layer):
            old = fx.tensor_of(module, part)
            shape = per_channel_shape(scale, old.dim(), axis if old.dim() > 1 else 0)
            _set(module, part, old / scale.reshape(shape), trainable=not is_scaling(layer))
    for part, layer in {parameters(layer)[0]: layer for layer in region.readers}.items():
        description = WEIGHTED[layer.target]
        old, scale = (
            fx.tensor_of(module, part),
            scales[region.places[cast(Node, layer.args[description.input])]],
        )
        if is_convolution(layer):
            groups = len(scale) // old.shape[1]
            by_output = scale.reshape(groups, 1, -1).expand(-1, old.shape[0] // groups, -1).flatten(0, 1)
            _set(module, part, old * by_output.reshape(*old.shape[:2], *[1] * (old.dim() - 2)))
        else:
            inputs = 1 - description.channel_axis % 2
            _set(module, part, old * scale.reshape(per_channel_shape(scale, 2, inputs)))


def _set(module: GraphModule, node: Node, value: Tensor, *, trainable: bool = True) -> None:
    """Puts a tensor of its own in place of a parameter, which may be the user's."""
    fx.set_tensor(module, str(node.target), value.float(), trainable=trainable)
    node.meta["val"] = value.float()
