"""Constants and learned values around linear layers: OpenVINO computes what the Program does."""

import pytest
import torch
from networks import sqnr
from torch import nn
from torch.nn import functional as F

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


class Between(nn.Module):
    """Two convolutions, and a function of the first and of a learned layer; (N, 3, 8, 8) to (N, 6, H, W)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.inner, self.last = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 16, 1),
            nn.Conv2d(16, 6, 1),
        )
        self.norm, self.function = nn.LayerNorm(16), function

    def forward(self, x):
        """The outputs."""
        return self.last(self.function(self, self.first(x)))


def by_channel(m, y):
    """Layer norm of the channels of images."""
    return m.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


FACTORS = torch.linspace(-2, 2.1, 16).reshape(16, 1, 1)
BETWEEN = {
    "negative factors of maxima": lambda m, y: F.max_pool2d(y, 3, 1, 1) * FACTORS,
    "negative divisors of means": lambda m, y: F.avg_pool2d(y, 3, 1, 1, count_include_pad=False) / FACTORS,
    "a gate behind a norm": lambda m, y: (lambda z: z * m.inner(z).sigmoid())(by_channel(m, y)),
    "a maximum behind a norm": lambda m, y: (lambda z: torch.maximum(z, m.inner(z)))(by_channel(m, y)),
    "a choice behind a norm": lambda m, y: (lambda z: torch.where(z > 0, z, m.inner(z)))(by_channel(m, y)),
    "means of halves": lambda m, y: F.avg_pool2d(torch.cat(y.chunk(2, 1)[::-1], 1), 3, 1, 1),
    "means of maxima": lambda m, y: torch.cat([F.max_pool2d(m.inner(y), 2), F.avg_pool2d(
        F.max_pool2d(m.inner(y), 2), 3, 1, 1)], 1)[:, 8:24],
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_what_openvino_fuses_is_right(name):
    """It was -11 to 15 dB to the simulation. Values between two steps may be rounded to either."""
    torch.manual_seed(0)
    model = Between(BETWEEN[name]).eval()
    data = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(9)]
    program = zp.quantize(zp.capture(model, data[0]), "static", calibration=data[:8], target="openvino")
    runner = zp.compile(program, "openvino", threads=1, verify=False)
    with torch.no_grad():
        expected = model(data[8])
    assert sqnr(program(data[8]), runner(data[8])) > 55
    assert sqnr(expected, runner(data[8])) > sqnr(expected, program(data[8])) - 0.5


class Masked(nn.Module):
    """Attention with what is added of a mask of truth values; tokens (N, T, 16) and mask (N, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 8)

    def forward(self, x, mask):
        """The outputs."""
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT / 4 + (1 - mask[:, None].float()) * -1e6
        return self.out(scores.softmax(-1) @ v)


def test_a_mask_is_not_added_to_scores_in_parts():
    """OpenVINO added -1e6 first, and the scores lost their digits: 32 dB."""
    torch.manual_seed(0)
    model = Masked().eval()
    data = [(torch.randn(4, 9, 16), torch.rand(4, 9) > 0.3) for _ in range(9)]
    program = zp.quantize(zp.capture(model, data[0]), "static", calibration=data[:8], target="openvino")
    runner = zp.compile(program, "openvino", threads=1, verify=False)
    assert sqnr(program(*data[8]), runner(*data[8])) > 100
