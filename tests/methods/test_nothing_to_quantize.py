"""A model in which nothing can be quantized is not called W8A8."""

import pytest
import torch
from torch import nn

import zeropoint as zp
from zeropoint.errors import InputWarning


@pytest.mark.parametrize("method", ["static", "dynamic", "weight-only"])
def test_nothing_to_quantize_is_said(method):
    program = zp.capture(nn.Softmax(1), torch.randn(2, 4))
    with pytest.warns(InputWarning, match=f"{method} quantized nothing.*no layer with weights"):
        quantized = zp.quantize(program, method, calibration=[torch.randn(2, 4), torch.randn(2, 4)])
    assert "W8" not in str(quantized)
    assert (quantized.weight_bits, quantized.activation_bits) == (32, 32)
