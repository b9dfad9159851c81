import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import ADDS_INSIDE, dynamic, images, options, randomized, residual, sqnr
from torch import nn

from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE_DYNAMIC
from zeropoint.graph.quantizers import quantizers

WEIGHT = np.array([[1, -2, 3, -4], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [8, 0.1, -8, 3]], np.float32)


def linear():
    model = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(WEIGHT))
    return dynamic(capture(model, torch.ones(2, 4)), ADDS_INSIDE, options())


def by_numpy(x):
    scales = np.array([4 / 127, 0.5 / 127, 1.0, 8 / 127])
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = max((high - low) / 255, 1e-12)
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    levels = np.clip(np.rint(x / scale) + zero_point, 0, 255)
    return (levels - zero_point) @ np.rint(WEIGHT / scales[:, None]).T * scale * scales


@pytest.mark.parametrize(
    "x",
    [
        [[1.0, 2.0, -1.0, 0.5], [4.1, 0.0, 0.3, -0.5]],
        [[1.0, 2.0, 3.0, 5.1]],
        [[-5.1, -1.0, -2.0, -0.1]],
        [[0.0, 0.0, 0.0, 0.0]],
        [[7.0, 7.0, 7.0, 7.0]],
    ],
)
def test_linear_by_hand(x):
    x = np.array(x, np.float32)
    assert linear()(torch.from_numpy(x)).numpy() == pytest.approx(by_numpy(x), rel=1e-4, abs=1e-5)


@pytest.mark.slow
@given(st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4))
def test_close_to_float_whatever_the_input(values):
    x = torch.tensor([values])
    spread = max(*values, 0) - min(*values, 0)
    # Each input is off by half a step at most, and each weight by half of 1 / 127 of its row's largest.
    bound = (
        np.abs(WEIGHT).sum(1) * spread / 255 / 2 + np.abs(x.numpy()).sum() * np.abs(WEIGHT).max(1) / 127 / 2
    )
    error = (linear()(x) - x @ torch.from_numpy(WEIGHT).T).abs().numpy()
    assert (error <= bound * 1.1 + 1e-5).all()


def test_the_range_is_that_of_the_batch_at_hand():
    program = linear()
    for size in (1e-3, 1.0, 1e3):
        x = torch.tensor([[1.0, -0.5, 0.25, 0.8]]) * size
        assert sqnr(x @ torch.from_numpy(WEIGHT).T, program(x)) > 35


def test_symmetric_activations_are_refused():
    with pytest.raises(InputError, match="dynamic activations are affine"):
        dynamic(residual(), ADDS_INSIDE, options(activation_symmetric=True))


def test_convolutions_stay_float():
    program = dynamic(residual(), ADDS_INSIDE, options(weight_bits=4))
    assert [str(q.source.target) for q in quantizers(program.module)] == ["head.weight"]
    assert sum(node.target is FAKE_QUANTIZE_DYNAMIC for node in program.module.graph.nodes) == 1
    assert (program.method, program.weight_bits, program.activation_bits) == ("dynamic", 4, 8)
    assert sqnr(residual()(images()), program(images())) > 15


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent(layer):
    program = capture(randomized(layer(4, 8, batch_first=True)), torch.randn(2, 5, 4))
    quantized = dynamic(program, ADDS_INSIDE, options())
    assert {str(q.source.target) for q in quantizers(quantized.module)} == {"weight_ih_l0", "weight_hh_l0"}
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert sqnr(program.flat(x)[0], quantized.flat(x)[0]) > 30


def test_tied_weights_are_quantized_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x))

    program = capture(randomized(Tied()), torch.tensor([[1, 2, 3]]))
    quantized = dynamic(program, ADDS_INSIDE, options())
    assert len(list(quantizers(quantized.module))) == 1
    assert sqnr(program(torch.tensor([[0, 5, 3]])), quantized(torch.tensor([[0, 5, 3]]))) > 30
