"""Blocks: where a network can be cut, the parts that come of it, and the teacher."""

import pytest
import torch
from networks import ADDS_INSIDE, Function, Residual, images, options, randomized, residual, round_to_nearest
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.passes.blocks import block_ends, relative_error, stretch, without_quantizers


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


def test_errors_are_relative_to_what_is_wanted():
    ones = torch.ones(2, 2)
    # Squares of 4 and 16 that are wanted, with errors of 1 in each place, and of 2: 4 / 4 and 16 / 16.
    wanted = [ones, 2 * ones]
    assert float(relative_error([2 * ones, 2 * ones], wanted)) == 0.5
    assert float(relative_error([ones, 4 * ones], wanted)) == 0.5
    assert float(relative_error([2 * ones, 4 * ones], wanted)) == 1.0
    assert float(relative_error([0.02 * ones], [0.01 * ones])) == pytest.approx(1.0)
    assert float(relative_error([], [])) == 0.0
    assert relative_error([ones], [0 * ones]).isfinite()
    with pytest.raises(ValueError, match="shorter"):
        relative_error([ones, ones], [ones])


def test_ends_are_of_floats_that_are_computed_from_the_inputs():
    class Mixed(nn.Module):
        """Moves, integers and constants are no ends; nor is what one of two inputs goes past."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x, y):
            a = self.first(x + y).transpose(0, 1).transpose(0, 1)
            b = a * self.weight.exp()
            return self.last(b.argmax(1, keepdim=True) * 1.5 + torch.zeros(4))

    found = block_ends(capture(Mixed(), (torch.ones(2, 4), torch.ones(2, 4))).module)
    assert found == ["add", "linear", "mul", "mul_1", "add_1"]
