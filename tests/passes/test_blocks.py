"""Blocks: where a network can be cut, the parts that come of it, and the teacher."""

import torch
from networks import ADDS_INSIDE, Function, Residual, images, options, randomized, residual, round_to_nearest
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.passes.blocks import block_ends, stretch, without_quantizers


def test_block_ends_have_no_shortcut_past_them():
    found = block_ends(capture(randomized(Residual()), images()).module)
    # Up to the shortcut, and from the addition on; the last operator gives the output itself.
    assert found == ["conv2d", "batch_norm", "relu_", "add", "relu"]
    shortcut = Function(lambda parts, x: x + parts[0](x), nn.Conv2d(3, 3, 1))
    assert block_ends(capture(shortcut, images()).module) == []


def test_stretches_one_behind_another_are_the_network():
    program = residual()
    before = [node.name for node in program.module.graph.nodes]
    first, second = stretch(program.module, None, ["relu_"]), stretch(program.module, "relu_", ["linear"])
    (between,) = first(images())
    torch.testing.assert_close(second(between)[0], program(images()))
    assert {name for name, _ in second.named_parameters()} == {
        *("inner.weight", "inner.bias", "head.weight", "head.bias")
    }
    assert [node.name for node in program.module.graph.nodes] == before


def test_the_teacher_is_the_float_network():
    start = round_to_nearest(residual(), ADDS_INSIDE, [images()], options(weight_bits=2))
    torch.testing.assert_close(without_quantizers(start)(images(8, 9)), residual()(images(8, 9)))
