"""Constants and learned values around linear layers: OpenVINO computes what the Program does."""

import pytest
import torch
from networks import sqnr
from torch import nn

import zeropoint as zp

pytestmark = pytest.mark.slow

SIGNED = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, 0.7])


class Scaled(nn.Module):
    """A function of a linear layer and its input, and another layer; (N, 8) to (N, 4)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.layer, self.head, self.function = nn.Linear(8, 8), nn.Linear(8, 4), function

    def forward(self, x):
        """The outputs."""
        return self.head(self.function(x, self.layer(x)))


class Normalized(nn.Module):
    """A batch norm behind an activation, as in many perceptrons; (N, 8) to (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 2))
        norm = self.layers[2]
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.3, 2)

    def forward(self, x):
        """The outputs."""
        return self.layers(x)


class Queried(nn.Module):
    """Learned queries look at tokens, as in DETR and Perceiver; (N, 20, 16) to (N, 8, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 8, 32))
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True, kdim=16, vdim=16)

    def forward(self, x):
        """The outputs."""
        return self.attention(self.queries.expand(x.shape[0], -1, -1), x, x)[0]


class Windowed(nn.Module):
    """Windows of a series, and a pool over all tokens whose channels lie side by side; (N, 20) to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.pool = nn.AdaptiveAvgPool1d(1)

    def forward(self, x):
        """The outputs."""
        tokens = torch.relu(self.first(x.unfold(1, 6, 2)))
        return self.second(self.pool(tokens.transpose(1, 2)).flatten(1))


MODELS = {
    "product with a number": (lambda: Scaled(lambda x, y: y * 0.25), (8,)),
    "residual sum, scaled": (lambda: Scaled(lambda x, y: x + y / 4), (8,)),
    "residual sum, scaled by channel": (lambda: Scaled(lambda x, y: x + y * SIGNED), (8,)),
    "scale and offset": (lambda: Scaled(lambda x, y: torch.relu(y) * SIGNED + 1.0), (8,)),
    "batch norm behind an activation": (Normalized, (8,)),
    "learned queries": (Queried, (20, 16)),
    "windows, and a pool over tokens": (Windowed, (20,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_openvino_computes_what_the_program_does(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().eval()
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(16, *shape, generator=generator) for _ in range(8)]
    program = zp.capture(model, batches[0][:4])
    quantized = zp.quantize(program, calibration=[((x,), None) for x in batches], target="openvino")
    x = torch.randn(4, *shape, generator=generator)
    found = zp.compile(quantized, "openvino", threads=1, batch_size=4)(x)
    assert sqnr(quantized(x), found) > 50
    with torch.no_grad():
        assert sqnr(model(x), found) > 28
