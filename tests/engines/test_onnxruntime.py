"""ONNX Runtime really computes in integers: seen in the graph that it runs after its own optimizations."""

import warnings
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from mixed import Transformer, assert_parity, batches
from networks import randomized
from torch import Tensor, nn

from zeropoint.engines import compile
from zeropoint.errors import InputError, InputWarning
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options


def optimized(program: Program, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime runs, counted by type."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(compile(program, "onnxruntime").artefact, options)
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.slow
def test_every_convolution_and_linear_layer_is_an_integer_one(
    float32: Program, data: list[Tensor], tmp_path: Path
):
    counts = optimized(quantize(float32, "static", calibration=data, target="onnxruntime"), tmp_path)
    assert counts["QLinearConv"] == 7
    assert counts["MatMulIntegerToFloat"] == 1
    assert counts["QLinearAdd"] == 1
    assert not counts.keys() & {"Conv", "FusedConv", "Gemm", "MatMul", "Relu", "Clip"}


@pytest.mark.slow
def test_what_the_rules_of_another_engine_leave_in_float_is_told(
    float32: Program, data: list[Tensor], tmp_path: Path
):
    """OpenVINO rounds a shortcut's sum alone; ONNX Runtime has no integer kernel for what is not rounded."""
    static = quantize(float32, "static", calibration=data, target="openvino")
    with pytest.warns(InputWarning, match="quantized for openvino: onnxruntime computes") as told:
        counts = optimized(static, tmp_path)
    kinds = ("Conv", "FusedConv", "Gemm", "MatMul")
    assert f" computes {sum(counts[kind] for kind in kinds)} of 8 quantized layers" in str(told[0].message)
    with warnings.catch_warnings(action="error"):
        compile(static, "openvino")
        compile(quantize(float32, "dynamic", target="openvino"), "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("axes", [1, 2])
def test_convolutions_without_a_bias_are_integer_ones(axes: int, tmp_path: Path):
    """Group normalization does not fold into them, as a batch norm does, and leave a bias."""
    layer = getattr(nn, f"Conv{axes}d")
    blocks = [(layer(8, 8, 3, padding=1, bias=False), nn.GroupNorm(2, 8), nn.ReLU()) for _ in range(3)]
    network = randomized(nn.Sequential(*(part for block in blocks for part in block)))
    batches = [torch.randn(4, 8, *[12] * axes) for _ in range(4)]
    program = capture(network, batches[0][:1])
    # With bits of its own the first one is of integers, though float is as fast there.
    chosen = Options(end_bits=8)
    static = quantize(program, calibration=batches, target="onnxruntime", options=chosen)
    counts = optimized(static, tmp_path)
    assert counts["QLinearConv"] == 3
    assert not counts.keys() & {"Conv", "FusedConv"}
    runner = compile(static, "onnxruntime")
    assert_parity(lambda x: network(x), static, runner, [(batch,) for batch in batches])


class Squared(nn.Module):
    """A layer without a bias, and the square of its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.relu(self.first(x)).square())


@pytest.mark.slow
def test_a_layer_without_a_bias_before_a_float_relu_is_an_integer_one(tmp_path: Path):
    batches = [torch.randn(4, 8, 16) for _ in range(4)]
    program = capture(randomized(Squared()), batches[0][:1])
    counts = optimized(quantize(program, calibration=batches, target="onnxruntime"), tmp_path)
    assert counts["MatMulIntegerToFloat"] == 2
    assert not counts.keys() & {"MatMul", "Gemm", "FusedMatMul"}


class Stem(nn.Module):
    """A first convolution of stride 2, and a mean over what a hard-swish makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.stem(x))
        return self.head(nn.functional.hardswish(x.mean((2, 3), keepdim=True))).flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_first_convolution_and_mean_are_integer_ones(data: list[Tensor], bits: int, tmp_path: Path):
    program = capture(randomized(Stem()), data[0][:1])
    options = Options(activation_bits=bits)
    static = quantize(program, calibration=data, target="onnxruntime", options=options)
    counts = optimized(static, tmp_path)
    assert counts["SpaceToDepth"] == 1
    if bits == 8:
        assert (counts["QLinearConv"], counts["QLinearGlobalAveragePool"]) == (2, 1)
    inputs = [(batch,) for batch in (*data, data[0][:3])]
    assert_parity(program, static, compile(static, "onnxruntime", threads=1), inputs)


@pytest.mark.slow
def test_no_skip_layer_normalization(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = []
    original = onnxruntime.InferenceSession

    def keeping(path: Path, options: onnxruntime.SessionOptions, **keywords: object):
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        session = original(path, options, **keywords)
        found.append({node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node})
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", keeping)
    (batch, *_) = batches(5, 8)
    program = capture(randomized(Transformer()), batch)
    runner = compile(program, "onnxruntime", threads=1)
    torch.testing.assert_close(runner(batch), program(batch), rtol=0, atol=1e-4)
    operators = found[-1]
    assert "LayerNormalization" in operators
    assert "SkipLayerNormalization" not in operators


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 8), (4, 5, 8)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
def test_linear_layers_of_any_rank(shape: tuple[int, ...], bias: bool, granularity, tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=bias), nn.ReLU(), nn.Linear(16, 5, bias=bias))
    calibration = [torch.randn(shape)]
    options = Options(weight_granularity=granularity)
    static = quantize(
        capture(model, calibration[0]), calibration=calibration, target="onnxruntime", options=options
    )
    assert not optimized(static, tmp_path).keys() & {"Gemm", "MatMul", "DequantizeLinear"}
    torch.testing.assert_close(compile(static, "onnxruntime")(*calibration), static(*calibration))


def test_dynamic_linear_layers_are_integer_products(tmp_path: Path):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    program = quantize(capture(model, torch.randn(2, 8)), "dynamic", target="onnxruntime")
    counts = optimized(program, tmp_path)
    assert counts["DynamicQuantizeMatMul"] == 2
    assert "Gemm" not in counts


@pytest.mark.slow
def test_dynamic_weights_of_fewer_bits_are_integers_as_well(tmp_path: Path):
    torch.manual_seed(0)
    program = capture(nn.Linear(32, 8), torch.randn(2, 32))
    quantized = quantize(program, "dynamic", target="onnxruntime", options=Options(weight_bits=4))
    assert optimized(quantized, tmp_path)["DynamicQuantizeMatMul"] == 1
    x = torch.randn(3, 32)
    torch.testing.assert_close(compile(quantized, "onnxruntime")(x), quantized(x))


def test_dynamic_of_weights_off_centre_is_refused():
    linear = nn.Linear(8, 4)
    linear.weight.data.abs_()  # affine, so that every zero point is the smallest integer
    options = Options(weight_symmetric=False, processor="arm")  # for which OpenVINO has no groups
    quantized = quantize(capture(linear, torch.randn(2, 8)), "dynamic", options=options)
    with pytest.raises(InputError, match="have 8-bit inputs, symmetric weights"):
        compile(quantized, "onnxruntime")


def test_the_file_holds_eight_bits_a_weight():
    program = capture(nn.Linear(256, 256), torch.randn(2, 256))
    quantized = quantize(program, calibration=[torch.randn(2, 256)], target="onnxruntime")
    assert compile(quantized, "onnxruntime").artefact.stat().st_size < 256 * 256 + 10_000


@pytest.mark.slow
def test_a_batch_norm_kept_apart_from_a_dynamic_layer_stays_apart():
    network = randomized(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    dynamic = quantize(capture(network, x), "dynamic", options=Options(no_fuse=("1",)))
    runner = compile(dynamic, "onnxruntime", threads=1)
    torch.testing.assert_close(runner(x), dynamic(x), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_weight_that_two_layers_share_is_read_as_each_needs(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.inner, self.head = nn.Embedding(64, 32), nn.Linear(32, 32), nn.Linear(32, 64)
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.inner(self.embedding(x))))

    data = [torch.arange(64).reshape(8, 8)]
    program = capture(randomized(Tied()), data[0])
    static = quantize(program, calibration=data, target="onnxruntime", options=Options(rounding="nearest"))
    assert optimized(static, tmp_path)["MatMulIntegerToFloat"] == 2
    torch.testing.assert_close(compile(static, "onnxruntime")(*data), static(*data), rtol=0, atol=1e-3)
