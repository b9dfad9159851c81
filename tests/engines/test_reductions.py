"""Reductions over every axis, and over one: every engine computes what PyTorch does."""

from collections.abc import Callable

import pytest
import torch
from networks import sqnr
from torch import Tensor, nn
from torch.nn import functional as F

import zeropoint as zp
from zeropoint.engines import NAMES

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
OVER_ALL = {
    "amax": lambda x: x.amax(),
    "amax keeping axes": lambda x: x.amax(keepdim=True),
    "amin": lambda x: x.amin(),
    "aminmax": lambda x: torch.stack(torch.aminmax(x)),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "sum": lambda x: x.sum(),
    "sum of no axes": lambda x: x.sum(dim=()),
    "mean": lambda x: x.mean(),
    "mean of no axes": lambda x: x.mean(dim=None),
    "prod": lambda x: x.prod(),
    "any": lambda x: (x > 2).any().to(x.dtype),
    "all": lambda x: (x > -0.1).all().to(x.dtype),
    "argmax": lambda x: x.argmax().to(x.dtype),
    "argmin keeping axes": lambda x: x.argmin(keepdim=True).to(x.dtype),
    "std": lambda x: x.std(),
    "std by n": lambda x: x.std(unbiased=False),
    "var": lambda x: x.var(),
    "var by n": lambda x: x.var(correction=0),
    "var and mean": lambda x: torch.stack(torch.var_mean(x)),
    "std and mean": lambda x: torch.stack(torch.std_mean(x)),
    "logsumexp": lambda x: x.logsumexp((0, 1)),
    "norm": lambda x: x.norm(),
    "norm 1": lambda x: x.norm(1),
    "norm 3": lambda x: torch.linalg.vector_norm(x, 3.0),
    "largest norm": lambda x: x.norm(float("inf")),
    "norm keeping axes": lambda x: torch.linalg.vector_norm(x, keepdim=True),
}
OVER_ONE = {
    "amax": lambda x: x.amax(1),
    "aminmax": lambda x: torch.stack(torch.aminmax(x, dim=1)),
    "aminmax keeping": lambda x: torch.cat(torch.aminmax(x, dim=0, keepdim=True)),
    "std": lambda x: x.std(1),
    "var": lambda x: torch.var(x, 1, correction=None, keepdim=True),
    "var and mean": lambda x: torch.stack(torch.var_mean(x, 1, correction=0)),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "prod": lambda x: x.prod(1),
}
REDUCTIONS = [*OVER_ALL.items(), *OVER_ONE.items()]


class Reduced(nn.Module):
    """Each reduction of the outputs of a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.layer(x)
        return [function(features).flatten() for _, function in REDUCTIONS]


@pytest.fixture(scope="module")
def program() -> zp.Program:
    return zp.capture(Reduced().eval(), X)


def check(outputs: list[Tensor], expected: list[Tensor], told: str) -> None:
    for (name, _), output, one in zip(REDUCTIONS, outputs, expected, strict=True):
        assert torch.allclose(output.double(), one.double(), rtol=1e-4, atol=1e-5), f"{name}, {told}"


def test_axes_are_named_and_the_values_stay(program: zp.Program):
    exact = Reduced().double()
    exact.load_state_dict(Reduced().state_dict())
    check(program(X), exact(X.double()), "captured")
    aten = torch.ops.aten
    for name in ("amax.default", "amin.default", "var.correction", "std.correction"):
        packet, _, overload = name.partition(".")
        nodes = program.module.graph.find_nodes(
            op="call_function", target=getattr(getattr(aten, packet), overload)
        )
        assert nodes, name
        assert all(node.args[1] for node in nodes), name
    assert not program.module.graph.find_nodes(op="call_function", target=aten.aminmax.default)


@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "executorch"]
)
def test_engines_compute_them(program: zp.Program, engine: str):
    pytest.importorskip(engine)
    exact = Reduced().double()
    check(zp.compile(program, engine, threads=1)(X), exact(X.double()), engine)
    quantized = zp.quantize(program, "static", target=engine, calibration=[X])
    check(zp.compile(quantized, engine, threads=1)(X), quantized(X), f"static on {engine}")


class Scaled(nn.Module):
    """A layer's outputs, scaled and reduced over tokens, and a second layer; (N, 16, 8) to (N, 4)."""

    def __init__(self, reduce: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.reduce = nn.Linear(8, 8), nn.Linear(8, 4), reduce
        self.scale = nn.Parameter(torch.linspace(0.05, 0.2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.reduce(self.first(x), self.scale))


SCALED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "by a number": lambda x, _: (x * 0.1).mean(1),
    "by channel": lambda x, scale: (x * scale).mean(1),
    "divided": lambda x, _: (x / 7).mean(1),
    "affine": lambda x, scale: torch.addcmul(torch.zeros(8), scale, x + x.tanh()).mean(1),
    "sum": lambda x, scale: (x * scale).sum(1),
    "turned": lambda x, _: (x * 0.1).transpose(1, 2).mean(2),
    "of two axes": lambda x, scale: (x * scale).unflatten(1, (4, 4)).mean((1, 2)),
    "kept": lambda x, scale: (x * scale).mean(1, keepdim=True).squeeze(1),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_mean_of_scaled_values_is_right_on_openvino(name: str) -> None:
    """Its low-precision pass took the scale for a dequantization: -14 to 12 dB."""
    torch.manual_seed(0)
    model = Scaled(SCALED[name]).eval()
    data = [torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(9)]
    program = zp.quantize(zp.capture(model, data[0]), "static", calibration=data[:8], target="openvino")
    runner = zp.compile(program, "openvino", threads=1, verify=False)
    assert sqnr(model(data[8]).detach(), torch.as_tensor(runner(data[8]))) > 30


class Pooled(nn.Module):
    """Two layers over tokens, what is made of them, and a layer; (N, 16, 8) to (N, 5)."""

    def __init__(self, pool: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.last, self.pool = nn.Linear(width, 5), pool
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.body(x), self.scale))


POOLED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "maximum, activated": (lambda y, _: y.amax(1).sqrt(), 32),
    "minimum, activated": (lambda y, _: (-y).amin(1).tanh(), 32),
    "maximum over an image, activated": (lambda y, _: y.mT.unflatten(2, (4, 4)).amax((2, 3)).sqrt(), 32),
    "maximum, kept and activated": (lambda y, _: F.gelu(y.amax(1, keepdim=True))[:, 0], 32),
    "minimum, kept and negated": (lambda y, _: -y.amin(1, keepdim=True).flatten(1), 32),
    "maximum, kept and scaled": (lambda y, scale: (y.amax(1, keepdim=True) * scale).tanh().flatten(1), 32),
    "maximum over an image, kept": (
        lambda y, _: y.mT.unflatten(2, (4, 4)).amax((2, 3), keepdim=True).sigmoid().flatten(1),
        32,
    ),
    "maximum, kept for two": (lambda y, _: (lambda x: x * x.sigmoid())(y.amax(1, keepdim=True))[:, 0], 32),
    "product of a batch, scaled": (lambda y, scale: ((y @ y.mT) @ y * scale)[:, 3], 32),
    "factors times a product of a batch": (lambda y, scale: (scale * ((y @ y.mT) @ y)).mean(1), 32),
    "product of a batch, shifted": (lambda y, scale: ((y @ y.mT) @ y + 9 * scale)[:, 0], 32),
    "scaled beside others": (lambda y, scale: torch.cat([y[:, 0], y[:, 1] * scale], 1), 64),
    "shifted beside others": (lambda y, scale: torch.cat([y.sum(1) + scale, y.amax(1)], 1), 64),
    "scaled means": (lambda y, scale: torch.cat([y.mean(1) * scale, y.amax(1).sqrt()], 1), 64),
}


@pytest.mark.parametrize("name", POOLED)
def test_what_is_pooled_over_tokens_is_right_on_openvino(name: str) -> None:
    """Kernels of maxima with a quantizer were wrong (4 dB), and limits for each column read other memory."""
    torch.manual_seed(0)
    model = Pooled(*POOLED[name]).eval()
    data = [torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(9)]
    program = zp.quantize(zp.capture(model, data[0]), "static", calibration=data[:8], target="openvino")
    runner = zp.compile(program, "openvino", threads=1, verify=False)
    assert sqnr(program(data[8]), torch.as_tensor(runner(data[8]))) > 100
    assert sqnr(model(data[8]).detach(), torch.as_tensor(runner(data[8]))) > 30
