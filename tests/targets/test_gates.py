"""Products with a sigmoid are quantized on both sides where that leaves integers between layers."""

import onnxruntime
import pytest
import torch
from torch import nn

import zeropoint as zp
from zeropoint.graph.operators import FAKE_QUANTIZE, aten
from zeropoint.passes.silu import decompose_silu


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x):
        squeezed = self.narrow(x.mean((2, 3), keepdim=True))
        return x * self.wide(nn.functional.silu(squeezed)).sigmoid()


class Gated(nn.Module):
    """A gated linear unit: its value and its gate come from layers that leave floats."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.last = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        return self.last(self.value(x) * nn.functional.silu(self.gate(x)))


class Read(nn.Module):
    """A SiLU that a float operator reads, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x):
        x = nn.functional.silu(self.first(x))
        return self.second(x).mean((2, 3)) + x.exp().mean((2, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.SiLU(), Excited(), nn.Conv2d(16, 16, 3), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    ).eval()


IMAGES = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def quantized(model: nn.Module, data: torch.Tensor, target: str = "onnxruntime", **settings):
    torch.manual_seed(1)
    program = zp.capture(model, data[:2])
    return zp.quantize(program, "static", calibration=[data], target=target, options=zp.Options(**settings))


def products(program: zp.Program) -> list[int]:
    """How many sides of each product of activations come from a quantizer."""
    nodes = [node for node in program.module.graph.nodes if node.target is aten.mul.Tensor]
    return [sum(side.target in FAKE_QUANTIZE for side in node.args) for node in nodes]


def test_it_computes_what_silu_does():
    program = zp.capture(convolutional(), IMAGES[:2])
    apart = decompose_silu(program)
    targets = [node.target for node in apart.module.graph.nodes]
    assert aten.silu.default not in targets
    assert targets.count(aten.mul.Tensor) == 4
    torch.testing.assert_close(apart(IMAGES), program(IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_sigmoids_and_what_they_multiply_are_integers(bits: int):
    program = quantized(convolutional(), IMAGES, weight_bits=bits, activation_bits=bits)
    assert products(program) == [2, 2, 2, 2]
    sigmoids = [node for node in program.module.graph.nodes if node.target is aten.sigmoid.default]
    grids = [next(iter(node.users)).args[3:] for node in sigmoids]
    assert grids == [(0, 255)] * 4  # a product gains nothing from fewer bits


def test_onnx_runtime_multiplies_integers(tmp_path):
    program = quantized(convolutional(), IMAGES)
    runner = zp.compile(program, "onnxruntime", threads=1, path=tmp_path / "gates.onnx")
    torch.testing.assert_close(runner(IMAGES), program(IMAGES), rtol=0, atol=0.02)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "gates.onnx", options)
    content = (tmp_path / "optimized.onnx").read_bytes()
    assert (content.count(b"QLinearMul"), content.count(b"QLinearSigmoid")) == (4, 4)


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (Gated(), ROWS, "what the sigmoid is multiplied by is float"),
        (Read(), IMAGES, "not every reader of the product"),
        (nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU()), IMAGES, "not every reader of the product"),
    ],
    ids=["gated linear unit", "read as float", "output"],
)
def test_they_stay_float_where_nothing_is_gained(model, data, reason):
    program = quantized(model.eval(), data)
    found = [decision.reason for decision in program.decisions if decision.rule == "product with a sigmoid"]
    assert any(reason in (one or "") for one in found)
    assert None not in found


def test_openvino_keeps_silu_whole():
    program = quantized(convolutional(), IMAGES, target="openvino")
    assert aten.silu.default in [node.target for node in program.module.graph.nodes]
