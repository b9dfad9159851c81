"""OpenVINO really computes in integers: seen in the precisions of its runtime model."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import openvino
import pytest
import torch
from mixed import ManyOutputs, Recurrent, Transformer, TwoInputs, assert_parity, batches, noise_db
from networks import exact, randomized
from torch import Tensor, nn

from zeropoint import engines
from zeropoint.engines import compile
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program, load
from zeropoint.measure.size import on_disk
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options


def precisions(program: Program) -> dict[str, set[str]]:
    """The precisions that OpenVINO runs each type of layer in."""
    core = openvino.Core()
    model = core.read_model(compile(program, "openvino").artefact)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: dict[str, set[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        found.setdefault(info["layerType"].astype(str), set()).add(info["runtimePrecision"].astype(str))
    return found


INTERRUPTED = """
import faulthandler, signal
import torch, zeropoint as zp
from torch import nn

faulthandler.enable()  # as in a debugger, or under pytest
program = zp.capture(nn.Linear(8, 8), torch.randn(1, 8))
runners = [zp.compile(program, "openvino") for _ in range(3)]
for runner in runners:
    runner(torch.randn(1, 8))
del runner
while runners:
    del runners[0]
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_signals_arrive_after_models_were_deleted_in_any_order():
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{INTERRUPTED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.slow
def test_every_convolution_and_linear_layer_is_an_integer_one(float32: Program, data: list[Tensor]):
    options = Options(processor="vnni")
    found = precisions(quantize(float32, "static", calibration=data, target="openvino", options=options))
    assert found["Convolution"] == {"u8"}
    assert found["FullyConnected"] == {"u8"}
    assert found["Pooling"] == {"u8"}


def test_float32_is_float32(float32: Program):
    assert precisions(float32)["Convolution"] == {"f32"}


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_the_files_hold_eight_bits_a_weight(method: str):
    program = capture(nn.Linear(256, 256), torch.randn(2, 256))
    quantized = quantize(program, method, calibration=[torch.randn(2, 256)])
    artefact = compile(quantized, "openvino").artefact
    assert on_disk(artefact) < 256 * 256 + 30_000
    assert len(artefact.read_text().splitlines()) == 2  # no indentation


def test_only_the_batch_is_left_free_and_names_stay():
    many = capture(randomized(ManyOutputs()), batches()[0][:1])
    model = openvino.Core().read_model(compile(many, "openvino").artefact)
    assert [value.get_any_name() for value in model.inputs] == ["x"]
    assert [str(value.get_partial_shape()) for value in model.inputs] == ["[?,3,16,16]"]
    assert [str(value.get_partial_shape()) for value in model.outputs] == ["[?,5]", "[?,3]", "[?,8]"]
    two = capture(randomized(TwoInputs()), (batches(6)[0][:1], batches(4)[0][:1]))
    model = openvino.Core().read_model(compile(two, "openvino").artefact)
    assert [value.get_any_name() for value in model.inputs] == ["x", "y"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fp32", "static", "dynamic"])
def test_a_saved_program_runs_as_before(method: str, float32: Program, data: list[Tensor], tmp_path: Path):
    program = quantize(float32, method, calibration=data, target="openvino")
    program.save(tmp_path / "saved.pt2")
    loaded = compile(load(tmp_path / "saved.pt2"), "openvino")
    torch.testing.assert_close(loaded(data[0]), compile(program, "openvino")(data[0]), rtol=1e-5, atol=1e-5)
    (model,) = openvino.Core().read_model(loaded.artefact).inputs
    assert model.get_element_type() == openvino.Type.f32


@pytest.mark.slow
def test_layers_beside_a_recurrent_one_are_found_in_integers():
    data = batches(5, 6)
    program = capture(randomized(Recurrent(nn.LSTM)), data[0])
    static = quantize(program, calibration=data, target="openvino", options=Options(processor="vnni"))
    artefact = compile(static, "openvino").artefact
    assert engines.find("openvino").integer_operators(static, artefact) == {"linear"}


class Squared(nn.Module):
    """A block with ReLUs squared, whose second layer OpenVINO calls by a scale."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.relu(self.one(x)).square())


class Scaled(nn.Module):
    """Convolutions whose output has a scale for each channel, read twice, so that it is no part of them."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return x + self.two(torch.relu(y * self.scale)) * self.scale + y.mean()


RENAMED = {
    "layers that are one kernel": (
        nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)),
        (4, 12),
        {"linear", "linear_1", "linear_2"},
    ),
    "linear layers called by a scale": (Squared(), (4, 6, 16), {"linear", "linear_1"}),
    "convolutions beside scales": (Scaled(), (2, 8, 9, 9), {"conv2d", "conv2d_1"}),
    "attention": (
        nn.TransformerEncoderLayer(32, 2, 64, batch_first=True),
        (2, 12, 32),
        {"linear", "linear_1", "linear_2", "linear_3", "matmul_default", "matmul_default_1"},
    ),
}


@pytest.mark.parametrize("name", RENAMED)
def test_layers_are_found_in_integers_by_whatever_name(name: str):
    model, shape, expected = RENAMED[name]
    data = [torch.randn(shape) for _ in range(4)]
    options = Options(processor="vnni", rounding="nearest")
    static = quantize(capture(model.eval(), data[0]), calibration=data, target="openvino", options=options)
    found = engines.find("openvino").integer_operators(static, compile(static, "openvino").artefact)
    assert found == expected


def test_results_outlive_the_next_call(float32: Program, data: list[Tensor]):
    runner = compile(float32, "openvino")
    first = runner(data[0])
    kept = first.clone()
    runner(data[1])
    assert torch.equal(first, kept)


@pytest.mark.slow
def test_nothing_is_reported_over_the_network():
    code = """
import sys, torch, zeropoint
program = zeropoint.capture(torch.nn.Linear(4, 4), torch.randn(2, 4))
zeropoint.compile(program, engine="openvino")
assert "openvino" in sys.modules and sys.modules["openvino_telemetry"] is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_disk_that_is_full_is_said_and_nothing_stays(
    float32: Program, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(InputError, match=r"cannot write .*perhaps for want of space"):
        compile(float32, "openvino", path=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


class Products(nn.Module):
    """Products of four, three and two dimensions, one of them broadcast, and one with a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.vector = nn.Parameter(torch.linspace(-1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.first(x).unflatten(-1, (2, 4)).transpose(1, 2)
        heads = torch.softmax(heads @ heads.transpose(-2, -1), -1) @ heads  # (N, 2, 5, 4)
        heads = heads.mean((0, 1), keepdim=True)[0] @ heads.transpose(-2, -1)  # (1, 5, 4) with (N, 2, 4, 5)
        x = heads.mean(1) @ x  # (N, 5, 5) with (N, 5, 8)
        return self.last(x) + (x @ self.vector).unsqueeze(-1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fp32", pytest.param("static", marks=exact)])
def test_products_stay_whole_at_any_batch(method: str):
    data = batches(5, 8)
    program = capture(randomized(Products()), data[0])
    quantized = quantize(program, method, calibration=data, target="openvino")
    runner = compile(quantized, "openvino", threads=1)
    for size in (1, 3, 8, 2, 5, 7):
        batch = data[1][:size]
        reference, simulated, found = program(batch), quantized(batch), runner(batch)
        assert noise_db(reference, found) >= min(noise_db(reference, simulated), 100) - 1
    ranks = Counter(
        (node.get_type_name(), len(node.get_output_partial_shape(0)))
        for node in openvino.Core().read_model(runner.artefact).get_ops()
    )
    # Two of the products are attention, which stays apart only where there are quantizers in it.
    fused = 1 if method == "fp32" else 0
    assert (ranks["MatMul", 4], ranks["ScaledDotProductAttention", 4]) == (3 - 2 * fused, fused)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_alone_are_quantized_by_weight_only(bits: int):
    torch.manual_seed(0)
    data = [torch.randn(8, 512)]
    program = capture(nn.Linear(512, 64), data[0])
    options = Options(weight_bits=bits)
    quantized = quantize(program, "weight-only", calibration=data, target="openvino", options=options)
    assert noise_db(quantized(*data), compile(quantized, "openvino", threads=1)(*data)) > 110


@pytest.mark.slow
def test_without_vnni_attention_and_linear_layers_compute_in_float():
    data = batches(5, 8)
    program = capture(randomized(Transformer()), data[0][:1])
    options = Options(processor="avx2")
    quantized = quantize(program, "static", calibration=data, target="openvino", options=options)
    runner = compile(quantized, "openvino", threads=1)
    model = openvino.Core().read_model(runner.artefact)
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    makers = {value.get_node().get_type_name() for node in products for value in node.input_values()}
    assert "FakeQuantize" not in makers
    assert "Multiply" in makers  # of integer weights with their scales
    assert_parity(program, quantized, runner, [(batch,) for batch in data])


def test_weights_of_many_rows_are_unpacked_for_good():
    """The same values from a division by the inverse of the scale, which OpenVINO folds."""
    layer = nn.Linear(64, 32)
    for rows, divided in ((128, True), (4, False)):
        x = torch.randn(2, rows, 64, generator=torch.Generator().manual_seed(0))
        options = Options(processor="avx2")
        quantized = quantize(capture(layer, x), calibration=[x], target="openvino", options=options)
        runner = compile(quantized, "openvino", threads=1)
        kinds = {node.get_type_name() for node in openvino.Core().read_model(runner.artefact).get_ops()}
        assert ("Divide" in kinds) is divided
        assert noise_db(quantized(x), runner(x)) > 100
        assert on_disk(runner.artefact) < 64 * 32 + 20_000


@exact
@pytest.mark.slow
def test_attention_runs_in_integers():
    data = batches(5, 8)
    program = capture(randomized(Transformer()), data[0][:1])
    quantized = quantize(program, "static", calibration=data, target="openvino")
    runner = compile(quantized, "openvino", threads=1)
    model = openvino.Core().read_model(runner.artefact)
    products = [
        node
        for node in model.get_ops()
        if node.get_type_name() == "MatMul" and len(node.get_output_partial_shape(0)) == 4
    ]
    assert len(products) == 2
    makers = [[value.get_node().get_type_name() for value in node.input_values()] for node in products]
    assert makers == [["FakeQuantize", "FakeQuantize"]] * 2
    assert_parity(program, quantized, runner, [(batch,) for batch in data])
