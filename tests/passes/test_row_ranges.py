"""Run-time ranges of rows on engines that have one range for a tensor."""

import numpy as np
import pytest
import torch
from torch import nn

import zeropoint as zp
from zeropoint.graph.operators import FAKE_QUANTIZE_DYNAMIC, aten
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.sqnr import sqnr_db

ENGINES = [pytest.param("torch", marks=pytest.mark.slow), "onnxruntime"]


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8)).eval()


def rows(outlier: float = 1.0) -> torch.Tensor:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    x[3] *= outlier
    return x


def dynamic(network: nn.Module, x: torch.Tensor, engine: str) -> zp.Program:
    return zp.quantize(zp.capture(network, x), "dynamic", target=engine)


class Branches(nn.Module):
    """Two networks side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.single = layers(), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.deep(x), self.single(x)


@pytest.fixture(scope="module", params=ENGINES)
def on_engine(request) -> tuple[nn.Module, zp.Program, zp.Runner]:
    network = Branches().eval()
    program = dynamic(network, rows(), request.param)
    return network, program, zp.compile(program, request.param, threads=1, batch_size=4)


def test_an_item_does_not_suffer_from_an_outlier_in_its_batch(on_engine):
    network, program, runner = on_engine
    x = rows(outlier=100.0)
    with torch.no_grad():
        wanted = network(x)[0][:3]
    for run in (program, runner):  # with one range for all four rows, 4.7 dB and 7.3 dB
        assert sqnr_db(wanted, run(x)[0][:3]) > 33


def test_a_row_of_zeros_gives_the_bias(on_engine):
    network, program, runner = on_engine
    x = rows()
    x[1] = 0.0
    for run in (program, runner):
        assert torch.equal(run(x)[1][1], network.single.bias.detach())


def test_the_simulation_is_arithmetic_by_hand():
    torch.manual_seed(0)
    network, x = nn.Linear(64, 8).eval(), rows()
    program = dynamic(network, x, "onnxruntime")
    (weight,) = (one for one in quantizers(program.module) if one.is_weight)
    w = weight.integers(program.module).numpy() * weight.scale.numpy()[:, None]
    top, bottom = x.numpy().max(1, keepdims=True), x.numpy().min(1, keepdims=True)
    r = np.maximum(top, bottom * np.float32(-128 / 127))
    scaled = x.numpy() / r  # float32 throughout, as a value on the edge of two steps is rounded to either
    low, high = min(scaled.min(), np.float32(0)), max(scaled.max(), np.float32(0))
    step = (high - low) / np.float32(255)
    zero = np.round(-low / step)
    assert (zero, step) == (127, pytest.approx(1 / 128, rel=1e-6))
    q = np.clip(np.round(scaled / step) + zero, 0, 255)
    by_hand = r * ((q - zero) * step @ w.T) + network.bias.detach().numpy()
    assert sqnr_db(torch.from_numpy(by_hand), program(x)) > 100


class Heads(nn.Module):
    """Three linear layers that read the same value; the first one without a bias, the last by ``addmm``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 3, bias=False), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x) * torch.addmm(self.third.bias, x, self.third.weight.t())


def test_readers_of_a_value_share_its_scales():
    torch.manual_seed(0)
    network, x = Heads().eval(), torch.randn(5, 16)
    program = dynamic(network, x, "onnxruntime")
    graph = program.module.graph
    quantized = graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_DYNAMIC)
    assert len(quantized) == len(graph.find_nodes(op="call_function", target=aten.maximum.default)) == 1
    with torch.no_grad():
        assert sqnr_db(network(x), program(x)) > 30


class Normalized(nn.Module):
    """Its own maximum of the value that is quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) / x.amax()


def test_a_maximum_of_the_model_is_of_the_rows_themselves():
    torch.manual_seed(0)
    network, x = Normalized().eval(), 3 * torch.randn(5, 16)
    with torch.no_grad():
        assert sqnr_db(network(x), dynamic(network, x, "onnxruntime")(x)) > 30


def test_openvino_finds_the_ranges_of_rows_itself():
    program = dynamic(layers(), rows(), "openvino")
    assert not program.module.graph.find_nodes(op="call_function", target=aten.maximum.default)
