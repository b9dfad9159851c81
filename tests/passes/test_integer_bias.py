"""Biases on the grid of int32 sums: by hand, in ONNX Runtime, and where they have to stay."""

import pytest
import torch
from networks import ADDS_INSIDE, Function, images, options, randomized, residual, round_to_nearest, sqnr
from torch import Tensor, nn

from zeropoint.engines import compile
from zeropoint.engines.onnxruntime.target import TARGET as ONNXRUNTIME
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import WEIGHTED, bias_of
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.passes.integer_bias import make_room, round_biases
from zeropoint.quantization import quantize

DATA = [images(16, seed) for seed in range(4)]


def units(program: Program) -> list[Tensor]:
    """Every layer's bias in units of its input's scale times its weight's."""
    by_node = {one.node: one for one in quantizers(program.module)}
    found = []
    for node in program.module.graph.nodes:
        if description := WEIGHTED.get(node.target):
            bias = bias_of(node, description)
            input, weight = (by_node[node.args[at]] for at in (description.input, description.weight))
            assert bias is not None
            value = program.module.get_parameter(str(bias.target)).detach().double()
            found.append(value / (input.scale.double() * weight.scale.double()))
    return found


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_bias_is_the_nearest_whole_number(bits: int):
    chosen = options(weight_bits=bits, activation_bits=bits, end_bits=bits)
    before = round_to_nearest(residual(), ADDS_INSIDE, DATA, chosen)
    after = round_biases(before)
    assert len(units(before)) == 3
    for old, new in zip(units(before), units(after), strict=True):
        torch.testing.assert_close(new, old.round(), rtol=1e-5, atol=1e-6)
        assert not torch.equal(new, old)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "static-best"])
def test_methods_end_with_it(method: str):
    for part in units(quantize(residual(), method, calibration=DATA, target=ADDS_INSIDE, options=options())):
        torch.testing.assert_close(part, part.round(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_onnx_runtime_computes_what_a_four_bit_program_does():
    def blocks(parts: nn.ModuleList, x: Tensor) -> Tensor:
        for part in parts:
            x = torch.relu(x + part(x))
        return x

    model = randomized(Function(blocks, *[nn.Conv2d(3, 3, 3, padding=1) for _ in range(6)]))
    chosen = options(weight_bits=4, activation_bits=4, end_bits=4)
    rough = round_to_nearest(capture(model, DATA[0][:2]), ONNXRUNTIME, DATA, chosen)

    def apart(program: Program) -> float:
        expected, found = program(DATA[0]), compile(program, "onnxruntime")(DATA[0])
        return float(((found - expected).abs() > 1e-3 * expected.abs().max()).float().mean())

    assert apart(round_biases(rough)) < 0.01 < apart(rough)


def test_a_bias_of_two_layers_is_rounded_for_each():
    def twice(parts: nn.ModuleList, x: Tensor) -> Tensor:
        return parts[0](10 * torch.relu(parts[0](x)))

    program = capture(randomized(Function(twice, nn.Linear(6, 6))), torch.zeros(2, 6))
    data = [torch.randn(16, 6, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    rounded = quantize(program, "static", calibration=data, target=ADDS_INSIDE, options=options())
    first, second = units(rounded)
    for part in (first, second):
        torch.testing.assert_close(part, part.round(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("chosen", [{"activation_bits": 16}, {"skip": ("stem", "inner", "head")}])
def test_what_no_integer_kernel_adds_stays(chosen: dict[str, object]):
    before = round_to_nearest(residual(), ADDS_INSIDE, DATA, options(**chosen))
    after = round_biases(before)
    for name, value in before.module.named_parameters():
        assert torch.equal(value, after.module.get_parameter(name))


def test_channels_all_but_dead_have_room_for_their_biases():
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    with torch.no_grad():
        model[0].weight[1] *= 1e-9
        model[0].weight[2] = 0
        model[0].bias.copy_(torch.tensor([0.1, 1.0, 0.37, 0.5]))
    program = capture(model, DATA[0][:2])
    quantized = quantize(program, "static", calibration=DATA, target=ONNXRUNTIME, options=options())
    expected = program(DATA[0])
    assert sqnr(expected, compile(quantized, "onnxruntime")(DATA[0])) > 35  # without it 12


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
def test_scales_leave_room_for_biases_of_24_bits(granularity: str):
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [1e-6], [0.0], [1e-6]]).expand(4, 4))
    data = [torch.rand(16, 4, generator=torch.Generator().manual_seed(0))]
    chosen = options(weight_granularity=granularity, processor="vnni")
    module = fx.copy(round_to_nearest(capture(layer, data[0][:2]), ADDS_INSIDE, data, chosen).module)
    bias = torch.tensor([100.0, -100.0, 100.0, 0.0])
    fx.set_tensor(module, "bias", bias, trainable=True)
    input, weight = (
        next(one for one in quantizers(module) if one.is_weight == kind) for kind in (False, True)
    )
    make_room(module)
    (found,) = (one.scale for one in quantizers(module) if one.is_weight)
    least = 100.0 / (float(input.scale) * 2**24)
    if granularity == "per-tensor":
        assert torch.equal(found, weight.scale)
    else:
        expected = [float(weight.scale[0]), least, least, float(weight.scale[3])]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)
        assert least > float(weight.scale[1])
        units = bias.double() / (found.double() * float(input.scale))
        assert units.abs().max() <= 2**24 * 1.0001
