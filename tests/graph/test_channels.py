"""Which channel of one value is which of another."""

import torch
from networks import Function
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.graph.channels import trace
from zeropoint.graph.operators import aten


def channels(function, *parts):
    """The names of the output's channels, and of those that each convolution makes, by its order."""
    module = capture(Function(function, *parts), torch.randn(2, 3, 4, 4)).module
    found = trace(
        module,
        lambda node: 1 if node.target is aten.conv2d.default else None,
        lambda node, axes: axes[0] if node.target in (aten.relu.default, aten.add.Tensor) else None,
    )
    (output,) = module.graph.find_nodes(op="output")[0].args[0]
    made = [found[n].names.tolist() for n in module.graph.nodes if n.target is aten.conv2d.default]
    return (found[output].names.tolist() if output in found else None), made


def test_a_join_holds_the_channels_of_both_and_a_split_its_part():
    def function(parts, x):
        return torch.cat([parts[0](x).relu(), parts[1](x)], 1).split([3, 2], 1)[1]

    found, (first, second) = channels(function, nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1))
    assert not set(first) & set(second)
    assert found == second[1:]


def test_channels_that_are_added_are_the_same():
    def function(parts, x):
        y, z = parts[0](x), parts[1](x)
        return torch.cat([y + z, z], 1)

    found, (first, second) = channels(function, nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1))
    assert first == second
    assert found == first + second


def test_a_join_along_another_axis_and_other_operators_have_none():
    assert channels(lambda parts, x: torch.cat([parts[0](x)] * 2, 2), nn.Conv2d(3, 2, 1))[0] is None
    assert channels(lambda parts, x: parts[0](x).sigmoid(), nn.Conv2d(3, 2, 1))[0] is None
