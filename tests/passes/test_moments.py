"""Moments of a layer's inputs against those of PyTorch's unfolding, in float64."""

import functools
import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import weighted
from zeropoint.passes.moments import Moments, moments_of, unfolds

EVERYTHING = 1 << 20  # positions


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Side(nn.Module):
    """Layers that each have an input of their own: captured at once, since that takes the most time."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [layer(value) for layer, value in zip(self.layers, inputs, strict=True)]


def nodes(layers: Iterable[tuple[nn.Module, tuple[int, ...]]]) -> list[Node]:
    """Those of layers, given with the shape of their inputs."""
    side = Side(layer for layer, _ in layers)
    module = capture(side, tuple(torch.ones(shape) for _, shape in layers)).module
    return [node for node in module.graph.nodes if weighted(node)]


def found(
    node: Node, layer: nn.Module, floats: list[Tensor], integers: list[Tensor], positions: int = EVERYTHING
) -> tuple[Moments, Moments]:
    """The moments of a layer whose inputs are these in the float and in the quantized network."""
    description = weighted(node)
    source, weight = node.args[description.input], node.args[description.weight]
    environments = [
        [{source: value, weight: layer.weight.detach()} for value in values] for values in (floats, integers)
    ]
    return moments_of(node, *environments, [None] * len(environments[0]), positions)


def columns(layer: nn.Module, value: Tensor) -> Tensor:
    """The inputs to every output by PyTorch, (groups, positions, inputs), with ones where there is a bias."""
    value = value.double()
    if isinstance(layer, nn.Linear):
        unfolded = value.reshape(1, -1, value.shape[-1])
    else:
        sizes = [layer.kernel_size, layer.dilation, layer.padding, layer.stride]
        if isinstance(layer, nn.Conv1d):
            value, sizes = (
                value.unsqueeze(2),
                [(start, *size) for start, size in zip((1, 1, 0, 1), sizes, strict=True)],
            )
        unfolded = functional.unfold(value, *sizes).transpose(1, 2).flatten(0, 1)
        unfolded = unfolded.unflatten(1, (layer.groups, -1)).transpose(0, 1)
    return functional.pad(unfolded, (0, 1), value=1.0) if layer.bias is not None else unfolded


LAYERS = {
    "linear": (nn.Linear(5, 3), (7, 5)),
    "linear of tokens": (nn.Linear(5, 3, bias=False), (3, 4, 5)),
    "plain": (nn.Conv2d(3, 4, 3), (2, 3, 6, 5)),
    "not square": (nn.Conv2d(3, 4, (2, 3), bias=False), (2, 3, 6, 5)),
    "padded": (nn.Conv2d(2, 4, (3, 2), padding=(2, 1)), (2, 2, 5, 6)),
    "strided": (nn.Conv2d(2, 4, 3, stride=(2, 3), padding=1), (2, 2, 7, 8)),
    "dilated": (nn.Conv2d(2, 4, (3, 2), dilation=(2, 3), padding=(1, 2)), (2, 2, 8, 9)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, padding=1), (2, 6, 5, 4)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 5, 4)),
    "one dimension": (nn.Conv1d(3, 4, 4, stride=2, padding=3, dilation=2), (2, 3, 12)),
}


@functools.cache
def node_of_each() -> dict[str, Node]:
    return dict(zip(LAYERS, nodes(list(LAYERS.values())), strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_they_are_sums_over_all_positions(name: str):
    layer, shape = LAYERS[name]
    floats, integers = ([seeded(*shape, seed=seed) for seed in seeds] for seeds in ((1, 2, 3), (4, 5, 6)))
    folds = found(node_of_each()[name], layer, floats, integers)
    for fold, batches in zip(folds, ((0, 2), (1,)), strict=True):
        x = torch.cat([columns(layer, integers[batch]) for batch in batches], 1)
        y = torch.cat([columns(layer, floats[batch]) for batch in batches], 1)
        torch.testing.assert_close(fold.xx, x.mT @ x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fold.yx, y.mT @ x, rtol=1e-4, atol=1e-4)
        assert fold.xx.dtype == torch.float64


def test_of_a_single_batch_both_halves_are_the_same():
    layer, shape = LAYERS["linear"]
    first, second = found(node_of_each()["linear"], layer, [seeded(*shape)], [seeded(*shape)])
    assert first is second


def test_so_many_positions_are_used():
    """As many of each of two batches; the last of the inputs are ones for the bias, whose sum counts them."""
    cases = [
        (nn.Conv2d(3, 4, 1), (2, 3, 20, 20), 1000, 500),
        (nn.Conv2d(3, 4, 1), (2, 3, 20, 20), 101, 51),
        (nn.Conv2d(3, 4, 1), (2, 3, 20, 20), 10, 24),  # at least 16 for each of three inputs
        (nn.Conv2d(3, 4, 1), (2, 3, 4, 5), 1000, 40),  # of which there are no more
        (nn.Conv2d(2, 4, 1, groups=2), (2, 2, 20, 20), 1000, 250),
        (nn.Conv2d(8, 8, 1, groups=8), (2, 8, 20, 20), 1000, 125),  # a quarter at least
    ]
    layers = nodes([case[:2] for case in cases])
    for node, (layer, shape, positions, used) in zip(layers, cases, strict=True):
        values = [seeded(*shape, seed=seed) for seed in range(2)]
        for fold in found(node, layer, values, values, positions):
            assert fold.xx[:, -1, -1].tolist() == [used] * layer.groups


def test_positions_are_used_once_each_and_the_same_of_both_networks():
    """Of inputs that are all different, squares and products of a tenth tell which ones they are of."""
    x, layer = torch.arange(1, 401.0).reshape(1, 1, 20, 20), nn.Conv2d(1, 1, 1)
    (node,) = nodes([(layer, (1, 1, 20, 20))])
    fold, _ = found(node, layer, [x * 10], [x], 100)
    squares, sums, count = fold.xx[0, 0, 0], fold.xx[0, 0, 1], fold.xx[0, 1, 1]
    assert count == 100
    assert float(fold.yx[0, 0, 0]) == pytest.approx(float(squares) * 10, rel=1e-5)
    assert fold.yx[0, 1, 1] == count
    # Without repetition the mean of 100 of 1 to 400 is near 200.
    assert float(sums / count) == pytest.approx(200.5, abs=4 * 115 / math.sqrt(100))
    again, _ = found(node, layer, [x * 10], [x], 100)
    assert torch.equal(again.xx, fold.xx)


def test_inputs_by_place_become_inputs_by_channel():
    # Two places of a kernel, three channels, and the bias.
    by_place = torch.tensor([[1.0, 2.0, 3.0, 10.0, 20.0, 30.0, 0.5]]).double()
    moments = Moments((by_place.mT @ by_place)[None], (by_place.mT @ by_place)[None] * 2)
    moved = moments.channels_first(6, 2)
    by_channel = torch.tensor([[1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 0.5]]).double()
    torch.testing.assert_close(moved.xx[0], by_channel.mT @ by_channel)
    torch.testing.assert_close(moved.yx[0], by_channel.mT @ by_channel * 2)


def test_which_layers_unfold():
    cases = [
        (nn.Linear(5, 3), (2, 5), True),
        (nn.Conv1d(3, 4, 3), (2, 3, 8), True),
        (nn.Conv2d(3, 4, 3), (2, 3, 8, 8), True),
        (nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 8, 8), True),
        (nn.Conv2d(3, 4, 2, padding="same"), (2, 3, 8, 8), False),
        (nn.Conv3d(3, 4, 3), (2, 3, 8, 8, 8), False),
        (nn.ConvTranspose2d(3, 4, 3), (2, 3, 8, 8), False),
    ]
    assert [unfolds(node) for node in nodes([case[:2] for case in cases])] == [case[2] for case in cases]
