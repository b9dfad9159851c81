"""Images are laid out pixel by pixel for the PyTorch compiler, and layers give the same."""

import pytest
import torch
from networks import Function, options, randomized, static
from torch import Tensor, nn

from zeropoint.engines import target
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.torch.rewrites import QUANTIZE, pack_pixels
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten


def images(channels: int, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, 6, 5, generator=torch.Generator().manual_seed(seed))


def convolution(channels: int, **arguments: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1, **arguments), nn.ReLU(), nn.Conv2d(4, 2, 1))


def lowered(model: nn.Module, channels: int, **chosen: object):
    data = images(channels)
    program = static(capture(randomized(model), data), target("torch"), [data], options(**chosen))
    return to_pairs(program)


def is_packed(module) -> bool:
    return any(node.target is aten.view.dtype for node in module.graph.nodes)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("activation_bits", [8, 4])
def test_the_same_from_pixels(channels: int, activation_bits: int):
    chosen = {"activation_bits": activation_bits}  # the image keeps 8
    before = lowered(convolution(channels, stride=2), channels, **chosen)
    after = pack_pixels(fx.copy(before))
    assert is_packed(after)
    for x in (images(channels, 1), images(channels, 2)[:1] * 9):
        torch.testing.assert_close(after(x), before(x))  # their sums are in another order
    (first, *_) = (node for node in after.graph.nodes if node.target is aten.conv2d.default)
    layouts = {}
    fx.Watching(after, {first.args[0].name}, lambda node, value: layouts.setdefault(node, value)).run(
        images(channels)
    )
    (value,) = layouts.values()
    assert value.shape[1] == 4
    assert value.is_contiguous(memory_format=torch.channels_last)


def test_two_layers_that_read_an_image():
    function = lambda parts, x: parts[0](x) + parts[1](x)  # noqa: E731
    before = lowered(Function(function, nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)), 3)
    after = pack_pixels(fx.copy(before))
    assert is_packed(after)
    torch.testing.assert_close(after(images(3, 1)), before(images(3, 1)))


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (convolution(1), 1),  # lies as it should already
        (convolution(4), 4),  # is moved four bytes at a time as it is
        (nn.Conv2d(3, 6, 3, groups=3), 3),
        (nn.Sequential(nn.Sigmoid(), nn.Conv2d(3, 4, 1)), 3),  # no input of the model
    ],
)
def test_others_stay(model: nn.Module, channels: int):
    module = lowered(model, channels)
    assert QUANTIZE in {node.target for node in module.graph.nodes}
    assert not is_packed(pack_pixels(fx.copy(module)))


def test_weights_of_one_scale_stay():
    assert not is_packed(pack_pixels(lowered(convolution(3), 3, weight_granularity="per-tensor")))
