"""Multiply-accumulates against counts by hand."""

import torch
from networks import residual
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.graph.macs import multiply_accumulates


def test_counted_at_batch_1():
    # Output positions × channels × inputs to each.
    expected = {"conv2d": 64 * 4 * 27, "conv2d_1": 64 * 4 * 36, "linear": 64 * 5}
    assert multiply_accumulates(residual()) == expected


def test_a_fixed_batch_counts_whole():
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(6, 2) @ torch.ones(2, 5)

    assert list(multiply_accumulates(capture(Flat(), torch.randn(3, 4))).values()) == [6 * 2 * 5]
