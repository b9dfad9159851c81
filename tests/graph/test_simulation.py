import pytest
import torch

from zeropoint.graph.operators import FAKE_QUANTIZE_CHANNEL, FAKE_QUANTIZE_TENSOR
from zeropoint.graph.quantizers import FAST


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 15)])
def test_fast_rounding_is_that_of_aten(axis, low, high):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(4, 5, 6, generator=generator)
    channels = value.shape[axis]
    scale = torch.rand(channels, generator=generator) / 20 + 0.01
    zero_point = torch.randint(max(low, -8), 8, (channels,), generator=generator).int()
    for target, arguments in (
        (FAKE_QUANTIZE_CHANNEL, (scale, zero_point, axis, low, high)),
        (FAKE_QUANTIZE_TENSOR, (float(scale[0]), int(zero_point[0]), low, high)),
    ):
        before = value.clone()
        torch.testing.assert_close(FAST[target](value, *arguments), target(value, *arguments))
        assert torch.equal(value, before)
