"""Moments of a layer's inputs: sums of products, of the float and of the quantized network."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional

from zeropoint import progress
from zeropoint.graph.hidden import visible
from zeropoint.graph.operators import WEIGHTED, Weighted, bias_of
from zeropoint.passes.stepping import Values, forget, step

# Of a layer's output this number of positions is used (a quarter if it is grouped), or SAMPLES for each of
# its inputs if that is more.
POSITIONS, SAMPLES = 8192, 16


def unfolds(layer: Node) -> bool:
    """Whether ``_columns`` supports a layer: a linear one, or a convolution with padding given as numbers."""
    family = WEIGHTED[layer.target].family
    by_numbers = not any(isinstance(part, str) for part in layer.args)
    return family == "linear" or (family in ("conv", "conv1d") and by_numbers)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over a layer's inputs in the quantized network, x, and in the float one, y: both (groups, K, K).

    The last of the K inputs to an output is 1 if there is a bias.
    """

    xx: Tensor
    yx: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.xx + other.xx, self.yx + other.yx)

    def of_groups(self, some: slice) -> "Moments":
        """Those of some groups."""
        return Moments(self.xx[some], self.yx[some])

    def channels_first(self, inputs: int, area: int) -> "Moments":
        """Those of ``inputs`` that came place by place of a kernel of ``area``, in the order of weights."""
        order = torch.arange(self.xx.shape[1])
        order[:inputs] = order[:inputs].reshape(area, -1).t().flatten()
        return Moments(*(part[:, order][:, :, order] for part in (self.xx, self.yx)))


def moments_of(
    layer: Node,
    floats: list[Values],
    integers: list[Values],
    shown: list[Tensor | None],
    positions: int,
    seed: int = 0,
) -> tuple[Moments, Moments]:
    """The moments of every other batch, and of those between; ``seed`` chooses the positions.

    ``shown`` says for each batch which are no padding (``graph.hidden``).
    """
    description = WEIGHTED[layer.target]
    folds: list[Moments | None] = [None, None]
    has_bias = bias_of(layer, description) is not None
    generator = torch.Generator().manual_seed(seed)
    for number, (float_values, values, mask) in enumerate(zip(floats, integers, shown, strict=True)):
        x = _columns(layer, description, values, mask)
        y = x if float_values is values else _columns(layer, description, float_values, mask)
        wanted = -(-max(positions // min(x.groups, 4), SAMPLES * x.inputs) // len(floats))
        chosen = torch.randperm(x.count, generator=generator)[:wanted]
        a = _with_one(x.take(chosen), has_bias)
        xx = (a.mT @ a).double()
        seen = Moments(xx, xx if y is x else (_with_one(y.take(chosen), has_bias).mT @ a).double())
        before = folds[number % 2]
        folds[number % 2] = seen if before is None else before + seen
    first, second = (fold and fold.channels_first(x.inputs, x.area) for fold in folds)
    assert first is not None
    return first, second or first


def moments_together(
    module: GraphModule,
    shared: list[list[Node]],
    floats: list[Values],
    shown: list[Tensor | None],
    positions: int,
    seed: int,
) -> list[Moments]:
    """The moments of layers that share a weight, all together, for each weight.

    Of the float network alone (Frantar et al. 2022), since the inputs of later layers depend on the weight.
    """
    numbers = {layer: number for number, layers in enumerate(shared) for layer in layers}
    found: dict[int, Moments] = {}
    done = Interpreter(module).user_to_last_uses
    envs = [dict(values) for values in floats]
    for node in progress.track(list(module.graph.nodes), "watching layers of a shared weight"):
        if node in numbers:
            number = numbers[node]
            first, second = moments_of(node, envs, envs, shown, positions, seed)
            seen = first if first is second else first + second
            found[number] = found[number] + seen if number in found else seen
        step(module, node, envs, [])
        forget(done.get(node, ()), envs)
    return [found[number] for number in range(len(shared))]


def _with_one(columns: Tensor, has_bias: bool) -> Tensor:
    return functional.pad(columns, (0, 1), value=1.0) if has_bias else columns


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The inputs to each of the ``count`` positions of a layer's output, taken out when asked for.

    ``take`` gives (groups, positions, inputs) for some positions, the inputs as they lie in memory: place by
    place of the kernel, which has ``area`` of them.
    """

    groups: int
    count: int
    inputs: int
    area: int
    take: Callable[[Tensor], Tensor]


def _columns(layer: Node, description: Weighted, env: Values, shown: Tensor | None) -> _Columns:
    value: Tensor = env[cast(Node, layer.args[description.input])]
    if description.family == "linear":
        rows = visible(value, shown).flatten(0, -2)
        return _Columns(1, len(rows), rows.shape[1], 1, lambda chosen: rows[chosen].unsqueeze(0))
    kernel = list(env[cast(Node, layer.args[description.weight])].shape[2:])
    given: list[Any] = list(layer.args[3:])
    settings = given + [1, 0, 1, 1][len(given) :]
    groups = settings.pop()
    stride, padding, dilation = (_list(part, len(kernel)) for part in settings)
    if len(kernel) == 1:
        value, kernel = value.unsqueeze(2), [1, *kernel]
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    pixels = value.permute(0, 2, 3, 1)
    places = list(pixels.shape[1:3])
    reach = [dilation[axis] * (kernel[axis] - 1) for axis in (0, 1)]
    rows, columns = ((places[i] + 2 * padding[i] - reach[i] - 1) // stride[i] + 1 for i in (0, 1))

    def take(chosen: Tensor) -> Tensor:
        image, *at = torch.unravel_index(chosen, (len(pixels), rows, columns))
        y, x = (
            at[i][:, None] * stride[i] + torch.arange(kernel[i]) * dilation[i] - padding[i] for i in (0, 1)
        )
        y, x = y[:, :, None], x[:, None, :]
        patches = pixels[image[:, None, None], y.clamp(0, places[0] - 1), x.clamp(0, places[1] - 1)]
        if any(padding):
            inside = (y >= 0) & (y < places[0]) & (x >= 0) & (x < places[1])
            patches = patches * inside[..., None]
        # (positions, kernel rows, kernel columns, channels)
        by_group: Tensor = patches.unflatten(3, (groups, -1))
        return by_group.movedim(3, 0).flatten(2)

    area = kernel[0] * kernel[1]
    return _Columns(groups, len(pixels) * rows * columns, pixels.shape[3] // groups * area, area, take)


def _list(value: Any, length: int) -> list[int]:
    """A setting of a convolution for each of its axes."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * length if len(values) == 1 else values
