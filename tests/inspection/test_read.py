"""What ``inspect`` tells, against arithmetic done by hand."""

import dataclasses
import json

import pytest
import torch
from networks import Function, bf16, images, options, randomized, residual
from torch import nn

from zeropoint import engines, inspect, load
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.macs import multiply_accumulates
from zeropoint.graph.program import Program, parameter_bytes
from zeropoint.inspection.differences import only, pairs
from zeropoint.inspection.facts import Inspection, Layer
from zeropoint.quantization import quantize
from zeropoint.report import inspect as report

STILL = torch.tensor([[[[1.55, -1.0]]]]).repeat(2, 1, 1, 1)  # a range of 2.55: 255 steps of 0.01


def conv_relu() -> Program:
    """A convolution of two kernels of 1x2, a ReLU and a pool, which ONNX Runtime reads in integers."""
    conv = nn.Conv2d(1, 2, (1, 2))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[0.503, -1.27]]], [[[0.254, 0.1009]]]]))
        conv.bias.copy_(torch.tensor([0.0123, -0.5]))
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return capture(model.eval(), STILL)


def linear(weight: list[list[float]]) -> Program:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor([0.1, 0.2]))
    return capture(nn.Sequential(nn.Flatten(), layer), STILL[:, 0])


def static(program: Program, target: str = "onnxruntime", data=STILL, **chosen) -> Program:
    """For a processor on which every weight has all eight bits."""
    chosen = options(processor="vnni", **chosen)
    return quantize(program, "static", calibration=[data], target=target, options=chosen)


def named(inspection: Inspection, name: str, operator: str = "") -> Layer:
    (layer,) = [one for one in inspection.layers if one.name == name and operator in one.operator]
    return layer


def test_a_convolution_and_its_relu_by_hand():
    program = conv_relu()
    layer = named(inspect(static(program), program), "0")
    # scale = max|w| / 127: 1.27 / 127 and 0.254 / 127
    assert layer.weight.grid.scale == pytest.approx((0.01, 0.002))
    assert layer.weight.grid.zero_point == (0, 0)
    assert (layer.weight.grid.qmin, layer.weight.grid.qmax, layer.weight.grid.axis) == (-128, 127, 0)
    assert layer.weight.grid.granularity == "per-channel"
    values = layer.weight.values
    assert [value.index for value in values] == [(0, 0, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0), (1, 0, 0, 1)]
    assert [value.integer for value in values] == [50, -127, 127, 50]
    assert [value.nearest for value in values] == [50, -127, 127, 50]
    assert [value.source for value in values] == pytest.approx([0.503, -1.27, 0.254, 0.1009])
    assert [value.value for value in values] == pytest.approx([0.5, -1.27, 0.254, 0.1])
    assert (layer.weight.nearest, layer.weight.furthest) == (1, 0)
    # the input: -1 to 1.55 in 255 steps
    (part,) = layer.inputs
    assert part.source == "the model's input"
    assert (part.grid.scale, part.grid.zero_point) == (pytest.approx((0.01,)), (100,))
    assert part.grid.range == pytest.approx((-1, 1.55))
    # units of 0.01 * 0.01 and 0.01 * 0.002
    assert [value.unit for value in layer.bias.values] == pytest.approx([1e-4, 2e-5])
    assert [value.units for value in layer.bias.values] == [123, -25000]
    assert [value.nearest for value in layer.bias.values] == [123, -25000]
    assert layer.bias.whole
    # the output: 1.55 * 0.503 + 1.27 + 0.0123 at most, and ReLU's least, in 255 steps
    (grid,) = layer.outputs
    assert (grid.scale, grid.zero_point) == (pytest.approx((2.06195 / 255,), rel=1e-5), (0,))
    (relu,) = layer.fused
    assert (relu.module, relu.operator) == ("1", "relu")
    assert relu.how == "its clipping is done by the range of the output's quantizer"
    assert (layer.state, layer.why, layer.output, layer.macs) == ("integer", "", (1, 2, 1, 1), 4)
    # 4 weights of a byte, 2 scales, 2 biases; before 4 weights and 2 biases of 4 bytes
    assert (layer.bytes, layer.float_bytes) == (4 + 8 + 8, 24)


def test_a_saved_file_has_no_float_weights_but_its_reference_has(tmp_path):
    program = conv_relu()
    quantized = static(program)
    quantized.save(tmp_path / "m.pt2")
    loaded = load(tmp_path / "m.pt2")
    alone, beside = inspect(loaded), inspect(loaded, program)
    assert alone.float_weights == ""
    assert named(alone, "0").weight.nearest is None
    assert {value.source for value in named(alone, "0").weight.values} == {None}
    assert [value.integer for value in named(alone, "0").weight.values] == [50, -127, 127, 50]
    assert beside.float_weights == "the float model"
    assert named(beside, "0") == named(inspect(quantized, program), "0")
    assert inspect(quantized).float_weights == "this Program"
    assert named(inspect(quantized), "0").weight.nearest == 1


def test_integers_that_are_not_the_nearest_are_told():
    program = conv_relu()
    quantized = static(program)
    fx.own_parameters(quantized.module)
    weight = dict(quantized.module.named_parameters())["0.weight"]
    with torch.no_grad():
        weight[0, 0, 0, 0] = 0.48  # 48 steps; the float model's are 50
    layer = named(inspect(quantized, program), "0")
    assert [value.integer for value in layer.weight.values] == [48, -127, 127, 50]
    assert [value.nearest for value in layer.weight.values] == [50, -127, 127, 50]
    assert (layer.weight.nearest, layer.weight.furthest) == (0.75, 2)


def test_four_bits_and_one_scale_by_hand(tmp_path):
    program = linear([[1.4, -0.6], [0.44, 0.2]])
    chosen = {"weight_bits": 4, "weight_granularity": "per-tensor", "weight_ranges": "minmax"}
    layer = named(inspect(static(program, data=STILL[:, 0], **chosen), program), "1")
    # 1.4 / 7; integers from -8 to 7
    assert layer.weight.grid.scale == pytest.approx((0.2,))
    assert (layer.weight.grid.bits, layer.weight.grid.qmin, layer.weight.grid.qmax) == (4, -8, 7)
    assert [value.integer for value in layer.weight.values] == [7, -3, 2, 1]
    assert [value.value for value in layer.weight.values] == pytest.approx([1.4, -0.6, 0.4, 0.2])
    assert layer.weight.bytes == 4 * 4 // 8 + 4
    assert [value.unit for value in layer.bias.values] == pytest.approx([0.002, 0.002])
    assert [value.units for value in layer.bias.values] == [50, 100]


def test_affine_weights_by_hand():
    program = linear([[0.51, 0.0], [2.55, -0.01]])
    chosen = {"weight_symmetric": False}
    layer = named(inspect(static(program, "openvino", STILL[:, 0], **chosen), program), "1")
    # 0 to 0.51 in 255 steps of 0.002, and -0.01 to 2.55 in 255 of 2.56 / 255, zero one step above the least
    assert layer.weight.grid.scale == pytest.approx((0.002, 2.56 / 255))
    assert layer.weight.grid.zero_point == (-128, -127)
    assert [value.integer for value in layer.weight.values] == [127, -128, 127, -128]
    assert layer.weight.bytes == 4 + 2 * 4 + 2 * 4


def test_dynamic_leaves_the_convolution_untouched():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    program = capture(randomized(body), images(2))
    inspection = inspect(quantize(program, "dynamic", options=options(processor="vnni")), program)
    conv, layer = named(inspection, "0"), named(inspection, "2")
    assert (conv.state, conv.weight.grid, conv.inputs[0].grid, conv.outputs) == ("float", None, None, ())
    assert "dynamic quantization leaves a convolution untouched" in conv.why
    assert conv.weight.dtype == "float32"
    assert conv.bytes == conv.float_bytes == 4 * (4 * 27 + 4)
    assert layer.state == "integer"
    assert layer.inputs[0].grid.granularity == "per-group, at run time"
    assert (layer.inputs[0].grid.scale, layer.inputs[0].grid.range) == ((), None)
    assert layer.bias.whole is None
    assert [one.operator for one in inspection.layers] == ["aten.conv2d.default", "aten.linear.default"]


def test_why_layers_stay_float(tmp_path):
    program = residual()
    skipped = static(program, data=images(), skip=("inn*",))
    skipped.save(tmp_path / "m.pt2")
    for one in (skipped, load(tmp_path / "m.pt2")):
        assert one.skip == ("inn*",)
        assert named(inspect(one), "inner").why == "skipped by the user ('inn*')"
    weights = quantize(program, "weight-only", calibration=[images()], options=options())
    head = named(inspect(weights), "head")
    assert (head.state, head.why) == ("weights", "its inputs, since weight-only leaves activations float")
    assert head.inputs[0].grid is None
    transposed = capture(nn.ConvTranspose2d(3, 2, 2), images(2))
    layer = inspect(static(transposed, "torch", images())).layers[0]
    assert layer.why == "the rules of torch run no 'conv_transpose' in integers"
    assert inspect(program).layers[0].why == "the Program is float"
    assert inspect(bf16(program)).layers[0].weight_bits == 16
    renamed = dataclasses.replace(static(transposed, "torch", images()), target="mine")
    assert inspect(renamed).layers[0].why == "the rules of torch run no 'conv_transpose' in integers"
    silent = dataclasses.replace(skipped, decisions=())
    assert named(inspect(silent), "inner").why.startswith("not known")


def test_groups_have_scales_of_their_own():
    program = capture(randomized(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))), images(2))
    chosen = {"weight_granularity": "per-group", "group_size": 96}
    quantized = quantize(program, "weight-only", calibration=[images()], options=options(**chosen))
    weight = named(inspect(quantized, program), "1").weight
    assert (weight.shape, weight.grid.granularity, len(weight.grid.scale)) == ((4, 192), "per-group", 8)
    rows = dict(program.module.named_parameters())["1.weight"].reshape(8, 96)
    assert weight.grid.scale == pytest.approx((rows.abs().amax(1) / 127).tolist())
    assert weight.nearest == 1


def test_what_is_folded_and_what_is_left():
    program = residual()
    quantized = static(program, data=images())
    inspection = inspect(quantized, program)
    stem = named(inspection, "stem")
    assert [(one.module, one.operator) for one in stem.fused] == [("norm", "batch_norm"), ("relu", "relu")]
    norm = named(inspect(quantized), "stem").fused[0]
    assert (norm.module, norm.operator) == ("", "batch_norm")
    assert sum(layer.bytes for layer in inspection.layers) == inspection.bytes == parameter_bytes(quantized)
    assert inspection.macs == sum(multiply_accumulates(program).values())
    assert {layer.name: layer.macs for layer in inspection.layers if layer.macs} == {
        "stem": 4 * 27 * 64,
        "inner": 4 * 36 * 64,
        "head": 5 * 64,
    }
    kept = static(program, data=images(), no_fuse=("stem",))
    assert named(inspect(kept, program), "norm").operator == "aten.batch_norm.default"
    assert [one.operator for one in named(inspect(kept, program), "stem").fused] == []


class Scaled(nn.Module):
    """A block with a scale for each channel in front of its sum."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)  # whose channels are not equalized
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.scale = nn.Parameter(torch.tensor([1e-3, 1.0, 10.0]).reshape(3, 1, 1))

    def forward(self, x):
        return x + self.scale * self.two(torch.relu(self.one(x)))


def test_products_with_constants_are_folded():
    program = capture(Scaled().eval(), images())
    inspection = inspect(static(program, data=images(), rounding="nearest"), program)
    two = named(inspection, "two")
    assert [(one.operator, one.how) for one in two.fused] == [("mul", "folded into weight and bias")]
    assert two.weight.nearest == 1  # of the float weight as it is folded
    assert not any(layer.operator == "aten.mul.Tensor" for layer in inspection.layers)
    kept = inspect(static(program, data=images(), no_fuse=("two",), rounding="nearest"), program)
    assert named(kept, "two").fused == ()
    assert named(kept, "two").weight.nearest == 1
    assert any(layer.operator == "aten.mul.Tensor" for layer in kept.layers)


def test_before_and_after():
    program = residual()
    before, after = inspect(program), inspect(static(program, data=images()), program)
    both = {pair.name: pair for pair in pairs(before, after)}
    # 4 * 27 weights in float, and the four tensors of a batch norm of 4 channels
    assert both["stem"].bytes_before == 4 * 4 * 27 + 4 * 4 * 4
    assert both["stem"].folded[0].name == "norm"
    assert "norm" not in both
    assert sum(pair.bytes_before for pair in both.values()) == before.bytes
    assert {"weight bits", "input bits", "bytes"} <= set(both["head"].changes)


def test_two_quantized_programs():
    program = residual()
    eight, skipped = static(program, data=images()), static(program, data=images(), skip=("inner",))
    both = {pair.name: pair for pair in pairs(inspect(eight), inspect(skipped))}
    assert both["stem"].changes == ()
    assert both["inner"].changes[:3] == ("state", "weight bits", "weight scale")
    assert (both["inner"].before.weight_bits, both["inner"].after.weight_bits) == (8, 32)
    few = quantize(program, "dynamic", options=options(processor="vnni"))
    assert {p.name for p in pairs(inspect(eight), inspect(few)) if p.before is None} == {"relu"}
    with pytest.raises(InputError, match="no layer in common"):
        pairs(inspect(program), inspect(conv_relu()))


def test_a_reference_that_is_quantized_is_refused():
    quantized = static(conv_relu())
    with pytest.raises(InputError, match="give the float Program"):
        inspect(quantized, quantized)


def test_only_some_layers():
    program = residual()
    inspection = inspect(static(program, data=images()), program)
    for pattern, names in (("head", {"head"}), ("*n*r", {"inner"}), ("norm", {"stem"})):
        (one,), _ = only([inspection], (), pattern)
        assert {layer.name for layer in one.layers} == names
    with pytest.raises(InputError, match="'haed' matches no layer of the model; did you mean head"):
        only([inspection], (), "haed")


def test_a_module_that_is_called_twice_has_two_layers():
    program = capture(
        Function(lambda parts, x: parts[0](torch.relu(parts[0](x))), nn.Linear(8, 8)), images(2)
    )
    quantized = static(program, data=images())
    layers = [layer for layer in inspect(quantized, program).layers if layer.weights]
    assert [layer.name for layer in layers] == ["parts.0", "parts.0"]
    assert all(layer.weight.nearest == 1 for layer in layers)


def test_the_json_is_everything():
    program = conv_relu()
    seen = [inspect(program), inspect(static(program), program)]
    record = json.loads(json.dumps(report.record(seen, pairs(*seen)), allow_nan=False))
    layer = record["models"][1]["layers"][0]
    assert layer["weights"][0]["grid"]["scale"] == list(named(seen[1], "0").weight.grid.scale)
    assert [value["integer"] for value in layer["weights"][0]["values"]] == [50, -127, 127, 50]
    assert [value["units"] for value in layer["bias"]["values"]] == [123, -25000]
    assert layer["inputs"][0]["grid"]["range"] == pytest.approx([-1, 1.55])
    assert record["differences"][0]["bytes"] == [24, 20]
    broken = conv_relu()
    with torch.no_grad():
        dict(broken.module.named_parameters())["0.weight"][0] = float("nan")
    json.dumps(report.record([inspect(broken)], ()), allow_nan=False)


def test_every_target_is_known_to_tell_why():
    for name in engines.NAMES:
        assert inspect(static(conv_relu(), name)).layers[0].state == "integer"
