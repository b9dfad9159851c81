"""SiLU taken apart, in float64."""

import torch
from torch import Tensor, nn

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import aten
from zeropoint.passes.silu import decompose_silu


class Twice(nn.Module):
    """A SiLU with two readers, and one that is an output."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = nn.functional.silu(x)
        return nn.functional.silu(y + 1), y * 2


def test_every_silu_becomes_a_product():
    x = torch.linspace(-6, 6, 24).reshape(2, 12)
    program = capture(Twice(), x)
    apart = decompose_silu(program)
    targets = [node.target for node in apart.module.graph.nodes]
    assert aten.silu.default not in targets
    assert targets.count(aten.sigmoid.default) == 2
    wide = x.double()
    y = wide / (1 + torch.exp(-wide))
    z = (y + 1) / (1 + torch.exp(-(y + 1)))
    for found, wanted in zip(apart(x), (z, y * 2), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
    assert [node.target for node in program.module.graph.nodes].count(aten.silu.default) == 2
