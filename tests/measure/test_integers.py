import pytest
import torch
from networks import exact
from torch import nn

import zeropoint as zp
from zeropoint.graph.macs import multiply_accumulates
from zeropoint.measure.integers import Integers, integers

CALIBRATION = [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))]


class Mixed(nn.Module):
    """Of every kind of product: convolutions, one transposed, attention, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.head = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(torch.relu(self.depthwise(torch.relu(self.first(x))))).flatten(2)
        y = torch.softmax(y @ y.transpose(1, 2), -1) @ y
        return self.head(y[:, :4, :16].flatten(1))


# Output positions × multiplications of each, by hand.
MACS = {
    "conv2d": 16 * 16 * 16 * 27,
    "conv2d_1": 16 * 16 * 16 * 9,
    "conv_transpose2d": 16 * 16 * 16 * 16 * 4,
    "matmul": 16 * 16 * 1024,
    "matmul_1": 16 * 16 * 1024,
    "linear": 64 * 128,
    "linear_1": 128 * 10,
}


@pytest.fixture(scope="module")
def program() -> zp.Program:
    torch.manual_seed(0)
    return zp.capture(Mixed().eval(), torch.randn(1, 3, 32, 32))


def test_multiply_accumulates_are_counted_at_batch_1(program):
    assert multiply_accumulates(program) == MACS


def of(program: zp.Program, method: str, engine: str) -> Integers:
    options = zp.Options(rounding="nearest")
    quantized = zp.quantize(program, method, calibration=CALIBRATION, target=engine, options=options)
    return integers(quantized, zp.compile(quantized, engine, threads=1))


def share(*names: str) -> float:
    return sum(MACS[name] for name in names) / sum(MACS.values())


def test_dynamic_layers_are_in_integers_and_nothing_else(program):
    result = of(program, "dynamic", "onnxruntime")
    assert result.share == pytest.approx(share("linear", "linear_1"))
    assert result.fallbacks == ()


@pytest.mark.slow
def test_static_on_onnxruntime_leaves_transposed_convolutions_and_attention_float(program):
    result = of(program, "static", "onnxruntime")
    assert result.share >= share("conv2d", "conv2d_1", "linear", "linear_1") - 1e-9
    assert result.share <= 1 - share("conv_transpose2d") + 1e-9
    assert result.fallbacks == ()


@pytest.mark.slow
def test_static_on_openvino_runs_transposed_convolutions_too(program):
    assert of(program, "static", "openvino").share >= share("conv2d", "conv2d_1", "conv_transpose2d") - 1e-9


@pytest.mark.slow
def test_static_on_torch(program):
    result = of(program, "static", "torch")
    assert result.share == pytest.approx(share("conv2d", "conv2d_1", "linear", "linear_1"))


@pytest.mark.slow
def test_float_programs_have_none(program):
    assert integers(program, zp.compile(program, "onnxruntime", threads=1)) == Integers(0.0, ())


@pytest.mark.slow
def test_a_fallback_is_named_by_module_operator_and_line(program, monkeypatch):
    from zeropoint.engines import onnxruntime

    monkeypatch.setattr(onnxruntime, "integer_operators", lambda program, path: {"conv2d"})
    result = of(program, "static", "onnxruntime")
    assert result.share == pytest.approx(share("conv2d"))
    assert any(
        line.startswith("depthwise (aten.conv2d.default) at ") and "test_integers.py:" in line
        for line in result.fallbacks
    )
    assert not any(line.startswith("first ") for line in result.fallbacks)


@pytest.mark.slow
def test_a_fallback_that_no_code_of_the_user_calls_has_no_line(monkeypatch):
    from zeropoint.engines import onnxruntime

    monkeypatch.setattr(onnxruntime, "integer_operators", lambda program, path: set())
    program = zp.capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), CALIBRATION[0])
    assert of(program, "static", "onnxruntime").fallbacks == ("0 (aten.conv2d.default)",)


class Batched(nn.Module):
    """Attention by products of batches of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(torch.softmax(torch.bmm(self.query(x), self.key(x).transpose(1, 2)), -1), x)


@exact
def test_batched_products_count_as_any_other():
    program = zp.capture(Batched().eval(), torch.randn(2, 16, 32))
    calibration = [torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(0))]
    quantized = zp.quantize(program, "static", calibration=calibration, target="openvino")
    assert integers(quantized, zp.compile(quantized, "openvino", threads=1)) == Integers(1.0, ())


class Branching(nn.Module):
    """Its graph has to be traced anew to be lowered, which gives operators names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32, bias=False), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cond(x.sum() > 0, lambda y: y + 1.0, lambda y: y - 1.0, (x,))
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_layers_beside_branches_are_found(method):
    batches = [torch.randn(8, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    program = zp.capture(Branching().eval(), batches[0])
    quantized = zp.quantize(program, method, calibration=batches, target="onnxruntime")
    found = integers(quantized, zp.compile(quantized, "onnxruntime", threads=1))
    assert (found.share, found.fallbacks) == (1.0, ())
