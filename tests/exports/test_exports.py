"""ONNX for TensorRT and QNN: their rules hold in the file, and it computes what the simulation does."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import Attention, images, randomized, residual, sqnr

import zeropoint as zp
from zeropoint import exports
from zeropoint.exports import EXPORTS
from zeropoint.graph.quantizers import quantizers
from zeropoint.models import resolve

CASES = [("tensorrt", 8), ("qnn", 8), ("qnn", 16)]


def quantized(to: str, bits: int = 8) -> zp.Program:
    options = zp.Options(activation_bits=bits)
    return zp.quantize(residual(), "static", calibration=[images(8)], target=to, options=options)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


@pytest.mark.parametrize(("to", "bits"), CASES)
def test_the_file_computes_what_the_simulation_does(to, bits, tmp_path):
    program = quantized(to, bits)
    made = zp.export(program, to, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(made.path)
    x = images(1, seed=3)
    (found,) = session.run(None, {"x": x.numpy()})
    assert sqnr(program(x), torch.from_numpy(found)) > (60 if bits == 16 else 35)
    assert made.sqnr_db > 35
    assert made.operators["Conv"] == 2
    assert set(made.operators) <= EXPORTS[to].operators


def test_tensorrt_has_signed_symmetric_integers_alone(tmp_path):
    program = quantized("tensorrt")
    model = onnx.load(zp.export(program, "tensorrt", tmp_path / "m.onnx").path)
    held = constants(model)
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 2 * 4 + 3  # of activations, and of weights
    for node in pairs:
        assert held[node.input[2]].dtype == np.int8
        assert not held[node.input[2]].any()
    weights = [held[node.input[0]] for node in pairs if node.input[0] in held]
    assert [weight.dtype for weight in weights] == [np.int8] * 3
    scales = [held[node.input[1]].size for node in pairs if node.input[0] in held]
    assert sorted(scales) == [4, 4, 5]  # one for each channel
    assert {one.version for one in model.opset_import} == {20}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("bits", [8, 16])
def test_qnn_has_fixed_sizes_and_integer_biases(bits, tmp_path):
    model = onnx.load(zp.export(quantized("qnn", bits), "qnn", tmp_path / "m.onnx").path)
    held, makers = constants(model), {node.output[0]: node for node in model.graph.node}
    for layer in [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]:
        source, weight, bias = (makers[name] for name in layer.input)
        assert held[bias.input[0]].dtype == np.int32
        product = held[source.input[1]] * held[weight.input[1]]
        np.testing.assert_allclose(held[bias.input[1]], product, rtol=1e-6)
        assert held[source.input[2]].dtype == (np.uint16 if bits == 16 else np.uint8)
        assert held[weight.input[0]].dtype == np.int8
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_value for size in shape] == [1, 3, 8, 8]
    assert not [node for node in model.graph.node if node.op_type in ("Shape", "Cast", "Constant")]


@pytest.mark.slow
@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_networks_are_exported(to, name, tmp_path):
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    floats = zp.capture(resolve(f"torchvision/{name}", "none"), x)
    program = zp.quantize(floats, "static", calibration=[x], target=to)
    # Random weights amplify: a value that is rounded to the other side, as with another number of threads,
    # may change the outputs by nearly as much as quantization does, which leaves ShuffleNet 12.5 dB.
    lost = sqnr(floats(x), program(x))
    assert zp.export(program, to, tmp_path / "m.onnx").sqnr_db > min(20, lost + 3)


def test_a_network_of_tokens_is_exported(tmp_path):
    inputs = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0)), torch.ones(2, 7)
    program = zp.capture(randomized(Attention()), inputs)
    made = zp.export(program, "tensorrt", tmp_path / "m.onnx")  # in float
    assert made.sqnr_db > 100


def test_16_bits_are_quantized_in_the_program():
    assert {one.scheme.bits for one in quantizers(quantized("qnn", 16).module) if not one.is_weight} == {16}


@pytest.mark.parametrize(
    ("program", "to", "message"),
    [
        (
            lambda: quantized("tensorrt"),
            "qnn",
            "the Program is quantized for tensorrt; quantize it with --target qnn",
        ),
        (residual, "tensort", "unknown export 'tensort'; did you mean tensorrt"),
    ],
)
def test_what_cannot_be_exported_is_one_line(program, to, message, tmp_path):
    with pytest.raises(zp.InputError) as error:
        zp.export(program(), to, tmp_path / "m.onnx")
    assert str(error.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_is_not_in_the_list_is_told(tmp_path, monkeypatch):
    less = dataclasses.replace(EXPORTS["qnn"], operators=EXPORTS["qnn"].operators - {"MaxPool"})
    monkeypatch.setitem(exports.EXPORTS, "qnn", less)
    with pytest.raises(zp.InputError, match=r"qnn supports no MaxPool \(onnxruntime-qnn"):
        zp.export(quantized("qnn"), "qnn", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_outputs_are_told_and_leave_no_file(tmp_path, monkeypatch):
    program = quantized("qnn")
    monkeypatch.setattr("zeropoint.exports.onnx.least", lambda _: 1000.0)
    with pytest.raises(zp.InputError, match=r"the ONNX for qnn has an SQNR of \d+"):
        zp.export(program, "qnn", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "method", "chosen", "message"),
    [
        ("tensorrt", "static", {"activation_bits": 16}, "TensorRT has integers of 8 bits"),
        ("tensorrt", "static", {"activation_symmetric": False}, "TensorRT's zero points are all 0"),
        ("tensorrt", "dynamic", {}, "it takes ranges from calibration"),
        ("qnn", "static", {"weight_bits": 4}, "QNN's weights have 8 bits here"),
    ],
)
def test_options_that_a_runtime_has_not_are_refused(to, method, chosen, message):
    with pytest.raises(zp.InputError, match=message):
        zp.quantize(residual(), method, calibration=[images(8)], target=to, options=zp.Options(**chosen))


def test_an_unknown_target_names_engines_and_exports():
    with pytest.raises(zp.InputError, match="unknown target 'qn'; did you mean qnn"):
        zp.quantize(residual(), "static", calibration=[images(8)], target="qn")
