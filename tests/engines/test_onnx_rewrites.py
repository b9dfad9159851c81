"""Rewrites compute what the graph did: checked by plain integer arithmetic and by the graph as it was."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Function
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from zeropoint.engines import compile
from zeropoint.engines.onnxruntime.rewrites import rewrite
from zeropoint.graph.capture import capture

# Powers of two, so that every sum is exact in float32 and in whatever order a kernel takes it.
INPUT_SCALE, WEIGHT_SCALE, OUTPUT_SCALE = 2.0**-5, 2.0**-7, 2.0**-2
INPUT_ZERO, OUTPUT_ZERO = 117, 130


def convolution(
    weight: np.ndarray, size: tuple[int, int], padding: int, weight_zero: int = 0, **attributes: object
) -> onnx.ModelProto:
    """A quantized image, an integer weight, and a convolution with a quantized result."""
    channels = weight.shape[1] * int(attributes.get("group", 1))
    axis_scales = np.full(len(weight), WEIGHT_SCALE, np.float32)
    constants = {
        "xs": np.float32(INPUT_SCALE),
        "xz": np.uint8(INPUT_ZERO),
        "w": weight,
        "ws": axis_scales,
        "wz": np.full(len(weight), weight_zero, np.int8),
        "ys": np.float32(OUTPUT_SCALE),
        "yz": np.uint8(OUTPUT_ZERO),
    }
    attributes = {"strides": [2, 2], "pads": [padding] * 4, **attributes}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], **attributes),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(weight), "h", "w"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rewritten(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.serde.deserialize_model(proto)
    rewrite(model)
    return ir.serde.serialize_model(model)


def run(proto: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, {"x": image})[0]


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def by_hand(image: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """The convolution in float64, which holds all of its integers."""
    levels = np.clip(np.rint(image.astype(np.float64) / INPUT_SCALE) + INPUT_ZERO, 0, 255) - INPUT_ZERO
    sums = nn.functional.conv2d(
        torch.from_numpy(levels), torch.from_numpy(weight.astype(np.float64)), stride=2, padding=padding
    )
    result = sums.numpy() * INPUT_SCALE * WEIGHT_SCALE / OUTPUT_SCALE
    return (np.clip(np.rint(result) + OUTPUT_ZERO, 0, 255) - OUTPUT_ZERO) * OUTPUT_SCALE


def image_and_weight(
    kernel: tuple[int, int], size: tuple[int, int], channels: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.normal(0, 2, (2, channels, *size)).astype(np.float32)
    # Seven bits: without VNNI two products of eight overflow sixteen bits, in an order of the kernel's own.
    return image, random.integers(-64, 64, (5, channels, *kernel)).astype(np.int8)


def check(kernel: tuple[int, int], padding: int, size: tuple[int, int], channels: int, seed: int = 0) -> None:
    image, weight = image_and_weight(kernel, size, channels, seed)
    before = convolution(weight, size, padding)
    after = rewritten(before)
    assert operators(after)["SpaceToDepth"] == 1
    expected = by_hand(image, weight, padding)
    assert np.array_equal(run(before, image), expected)
    assert np.array_equal(run(after, image), expected)


@pytest.mark.parametrize(("kernel", "padding"), [*itertools.product(range(1, 8), range(4))])
def test_a_convolution_over_squares_is_the_same(kernel: int, padding: int):
    for size in ((8, 8), (10, 14)):
        check((kernel, kernel), padding, size, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.integers(0, 5),
    st.tuples(st.integers(4, 9), st.integers(4, 9)),
    st.integers(1, 4),
    st.integers(0, 100),
)
def test_a_convolution_over_squares_of_any_kernel(
    kernel: tuple[int, int], padding: int, half: tuple[int, int], channels: int, seed: int
):
    check(kernel, padding, (2 * half[0], 2 * half[1]), channels, seed)


@pytest.mark.parametrize(
    ("shape", "size", "changes"),
    [
        ((5, 3, 3, 3), (9, 8), {}),
        ((5, 3, 3, 3), (8, 9), {}),
        ((6, 1, 3, 3), (8, 8), {"group": 3}),
        ((5, 5, 3, 3), (8, 8), {}),
        ((5, 3, 3, 3), (8, 8), {"strides": [1, 1]}),
        ((5, 3, 3, 3), (8, 8), {"strides": [2, 1]}),
        ((5, 3, 3, 3), (8, 8), {"dilations": [2, 2]}),
        ((5, 3, 3, 3), (8, 8), {"pads": [0, 0, 1, 1]}),
        ((5, 3, 3, 3), (8, 8), {"weight_zero": 3}),
    ],
)
def test_other_convolutions_stay(shape: tuple[int, ...], size: tuple[int, int], changes: dict[str, object]):
    weight = np.ones(shape, np.int8)
    before = convolution(weight, size, 1, **changes)
    assert operators(rewritten(before)) == operators(before)


def clipped(ends: tuple[float, float], *, shared: bool = False) -> onnx.ModelProto:
    """A quantized convolution with a clip before the quantizer of its result, as the exporter writes it."""
    weight = np.random.default_rng(1).integers(-64, 64, (5, 3, 3, 3)).astype(np.int8)
    proto = convolution(weight, (7, 7), 1)
    graph = proto.graph
    before = [node for node in graph.node if node.output[0] != "cq"]
    casts = [helper.make_node("CastLike", [end, "c"], [f"{end}_cast"]) for end in ("low", "high")]
    clip = helper.make_node("Clip", ["c", "low_cast", "high_cast"], ["clipped"])
    quantize = helper.make_node("QuantizeLinear", ["clipped", "ys", "yz"], ["cq"])
    del graph.node[:]
    graph.node.extend([*before[:-1], *casts, clip, quantize, before[-1]])
    for name, end in zip(("low", "high"), ends, strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(end)), name))
    if shared:
        graph.output.append(helper.make_tensor_value_info("clipped", TensorProto.FLOAT, ["n", 5, 4, 4]))
    return proto


@given(low=st.floats(-50, 10, width=32), span=st.floats(0, 60, width=32), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_clip_of_integers_is_that_of_their_values(low: float, span: float, seed: int):
    before = clipped((low, low + span))
    after = rewritten(before)
    weight = numpy_helper.to_array(next(part for part in before.graph.initializer if part.name == "w"))
    image, _ = image_and_weight((3, 3), (7, 7), 3, seed)
    levels = by_hand(image, weight, 1) / OUTPUT_SCALE  # whole numbers; a range wider than the clip's
    bounds = [
        np.clip(np.rint(end / OUTPUT_SCALE), -OUTPUT_ZERO, 255 - OUTPUT_ZERO) for end in (low, low + span)
    ]
    assert np.array_equal(run(before, image), np.clip(levels, *bounds) * OUTPUT_SCALE)
    assert np.array_equal(run(after, image), run(before, image))


def test_a_convolution_in_front_of_a_clip_runs_in_integers(tmp_path: Path):
    def kernels(proto: onnx.ModelProto) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(proto.SerializeToString(), options)
        return operators(onnx.load(options.optimized_model_filepath))

    before = clipped((0.0, 3.75))
    assert kernels(before)["QLinearConv"] == 0
    assert kernels(rewritten(before))["QLinearConv"] == 1


def test_a_clip_that_others_read_stays():
    before = clipped((0.0, 3.75), shared=True)
    assert operators(rewritten(before)) == operators(before)


@pytest.mark.parametrize(("low", "high", "halved"), [(-8, 8, 1), (-2, 2, 1), (-9, 8, 0), (-8, 9, 0)])
def test_weights_that_four_bits_hold_take_four(low: int, high: int, halved: int):
    random = np.random.default_rng(0)
    image = random.normal(0, 2, (2, 16, 8, 8)).astype(np.float32)
    weight = random.integers(low, high, (16, 16, 3, 3)).astype(np.int8)
    weight.flat[:2] = low, high - 1
    before = convolution(weight, (8, 8), 1)
    after = rewritten(before)
    assert operators(after) - operators(before) == Counter(Cast=halved)
    kinds = [each.data_type for each in after.graph.initializer if each.dims == [16, 16, 3, 3]]
    assert kinds == [TensorProto.INT4 if halved else TensorProto.INT8]
    expected = by_hand(image, weight, 1)
    assert np.array_equal(run(after, image), expected)
    saved = len(before.SerializeToString()) - len(after.SerializeToString())
    assert not halved or saved > weight.size // 2 - 300


def test_a_few_weights_stay_as_they_are():
    before = convolution(np.ones((5, 3, 3, 3), np.int8), (9, 8), 1)
    assert rewritten(before).opset_import[0].version == 20


def lowered(function: Callable[..., object], x: Tensor) -> Counter[str]:
    """The operators of the ONNX file of a function, which computes what the function does at any batch."""
    program = capture(Function(lambda _, x: function(x)), x)
    runner = compile(program, "onnxruntime", threads=1)
    for batch in (x, torch.cat([x, x * 2])):
        for expected, found in zip(program(batch), runner(batch), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    return operators(onnx.load(runner.artefact))


X = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [part * (i + 1) for i, part in enumerate(x.split([1, 3], 1))],
        lambda x: [part * (i + 1) for i, part in enumerate(x.split(3, -1))],  # the last part is shorter
        lambda x: x.chunk(2, 1)[1] * 2.0,  # a part that nobody reads
    ],
)
def test_splits_are_direct(function: Callable[..., object]):
    found = lowered(function, X)
    assert found["Split"] == 1
    assert not found.keys() & {"SplitToSequence", "SequenceAt"}


def test_parts_that_are_the_models_outputs():
    lowered(lambda x: x.split(2, 1), X)


def test_silu_is_one_operator():
    assert lowered(lambda x: nn.functional.silu(x) + 1, X)["QuickGelu"] == 1
    assert lowered(lambda x: torch.sigmoid(x) * x, X)["QuickGelu"] == 1


def shared(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    return x * gate, gate + 1


def given_back(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    return x * gate, gate


@pytest.mark.parametrize("function", [lambda x: (x + 1) * torch.sigmoid(x), shared, given_back])
def test_a_sigmoid_of_other_uses_stays(function: Callable[..., object]):
    found = lowered(function, X)
    assert found["Sigmoid"] == 1
    assert "QuickGelu" not in found


@pytest.mark.parametrize(
    ("function", "pooled"),
    [
        (lambda x: x.mean((2, 3), keepdim=True), True),
        (lambda x: x.mean((-1, -2), keepdim=True), True),
        (lambda x: (x * 9).int().mean((2, 3), keepdim=True, dtype=torch.float32), True),
        (lambda x: x.mean((2, 3)), False),
        (lambda x: x.mean((1, 2), keepdim=True), False),
        (lambda x: x.flatten(2).mean((1, 2), keepdim=True), False),
        (lambda x: x.mean(-1), False),
        (lambda x: torch.mean(x, dim=None, keepdim=True), False),
        (lambda x: x.mean((2, 3), keepdim=True, dtype=torch.float64), False),
    ],
)
def test_only_a_mean_over_an_image_is_a_pooling(function: Callable[..., object], pooled: bool):
    assert lowered(function, X)["GlobalAveragePool"] == pooled
