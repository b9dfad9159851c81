"""Weights that cannot overflow 16 bits, held against the kernels' arithmetic done one product at a time."""

import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Function, options, sqnr
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.simulate import on_processor, overflowing
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options
from zeropoint.targets.processor import native
from zeropoint.targets.saturation import TOGETHER, Pairing, Room, pairings, safe_scale, within_limits

NEIGHBOURS, ANY = Pairing("neighbours", 1), Pairing("any", 1)
SATURATES = native().saturates


def test_the_limit_is_the_largest_whose_products_fit():
    assert 255 * TOGETHER <= 32767 < 255 * (TOGETHER + 1)
    assert -255 * TOGETHER >= -32768


def test_a_scale_by_hand():
    weight = torch.tensor([[1.0, 0.5, -0.25, 0.0], [1.0, -1.0, 0.1, 0.1]])
    scale = torch.tensor([1 / 127, 1 / 127])
    # The first pair of the first row is 1.5 together, of the second row the two differ in sign.
    torch.testing.assert_close(safe_scale(weight, scale, NEIGHBOURS, 0), torch.tensor([1.5 / 128, 1 / 127]))
    torch.testing.assert_close(safe_scale(weight, scale, ANY, 0), torch.tensor([1 / 64, 1 / 64]))
    torch.testing.assert_close(safe_scale(weight, scale[:1], NEIGHBOURS, 0), torch.tensor([1.5 / 128]))
    # With outputs along axis 1 and inputs along axis 0: 1.0 with 1.0, 0.5 with -1.0.
    other = safe_scale(weight, torch.full((4,), 1 / 127), Pairing("neighbours", 0), 1)
    torch.testing.assert_close(other[:2], torch.tensor([2.0 / 128, 1 / 127]))


levels = st.integers(-128, 127)


@given(st.lists(levels, min_size=1, max_size=9), st.sampled_from([NEIGHBOURS, ANY]))
def test_limited_levels_do_not_overflow_and_safe_ones_stay(row: list[int], pairing: Pairing):
    weight = torch.tensor([row], dtype=torch.float32)
    limited = within_limits(weight, pairing).round()
    assert not _overflow(limited.int().numpy(), pairing)
    if not _overflow(weight.int().numpy(), pairing) and (pairing == NEIGHBOURS or weight.abs().max() <= 64):
        assert torch.equal(limited, weight)
    assert ((limited * weight >= 0) & (limited.abs() <= weight.abs())).all()  # nearer to zero, if moved


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.sampled_from([NEIGHBOURS, ANY]))
def test_weights_on_a_safe_scale_do_not_overflow_rounded(row: list[float], pairing: Pairing):
    weight = torch.tensor([row])
    scale = safe_scale(weight, (weight.abs().amax(1) / 127).clamp(min=1e-6), pairing, 0)
    assert not _overflow(within_limits((weight / scale).round(), pairing).round().int().numpy(), pairing)
    assert (weight / scale).abs().max() <= 127.001


def _overflow(weight: np.ndarray, pairing: Pairing) -> bool:
    """Whether an activation of 0 to 255 on either side makes two products exceed 16 bits."""
    rows, columns = weight.shape
    for row in range(rows):
        for i in range(columns):
            others = [i ^ 1] if pairing.order == "neighbours" else range(columns)
            for j in others:
                if j != i and j < columns:
                    sums = [
                        a * int(weight[row, i]) + b * int(weight[row, j]) for a in (0, 255) for b in (0, 255)
                    ]
                    if max(sums) > 32767 or min(sums) < -32768:
                        return True
    return False


def test_what_is_rounded_later_has_the_room_that_its_neighbour_leaves():
    room = Room(NEIGHBOURS, (1, 1), inputs=3, area=2)  # places 0 and 2 are neighbours, 4 is alone
    value = torch.full((1, 1, 1), 100.0, dtype=torch.float64)
    assert [float(room.fill(torch.tensor([place]), value)) for place in (2, 0, 1, 4)] == [100, 28, 100, 100]
    assert float(room.fill(torch.tensor([3]), -value)) == -100  # of another sign
    assert float(Room(ANY, (1, 1), 3, 2).fill(torch.tensor([0]), value)) == 64


class Layers(nn.Module):
    """A layer of every kind, with large weights of one sign beside one another; (N, 6, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.strided = nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding=1)
        self.transposed = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.linear = nn.Linear(4, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                generator = torch.Generator().manual_seed(parameter.numel())
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.3 + 0.2)
            self.grouped.weight[::4] *= -1

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.grouped(self.odd(x)))
        return self.linear(torch.relu(self.transposed(self.strided(x))).mean((2, 3)))


def data(seed: int = 0) -> list[Tensor]:
    return [torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed + i)) for i in range(2)]


@functools.cache
def captured() -> Program:
    return capture(Layers().eval(), data()[0][:2])


@functools.cache
def layers(processor: str, method: str = "static", engine: str = "openvino", **chosen: object) -> Program:
    return quantize(
        captured(), method, calibration=data(), target=engine, options=Options(processor=processor, **chosen)
    )


def test_which_layers_are_paired_and_how():
    program = layers("avx2")
    found = {name.split(".")[0]: one for name, one in pairings(program.module, "avx2").items()}
    assert found == {
        "odd": ANY,
        "grouped": NEIGHBOURS,
        "strided": NEIGHBOURS,
        "transposed": Pairing("neighbours", 0),
    }  # linear layers are computed in float there, of other engines in integers
    assert pairings(layers("avx2", engine="torch").module, "avx2")["linear.weight"] == NEIGHBOURS
    assert pairings(program.module, "vnni") == {}


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("processor", ["avx2", "avx512", "any"])
def test_static_cannot_overflow_where_products_saturate(processor: str, rounding: str):
    program = layers(processor, rounding=rounding)
    assert program.processor == processor
    assert overflowing(program, processor) == {}
    assert overflowing(layers("vnni", rounding=rounding), processor) != {}
    # The grid is no coarser than one of seven bits.
    finest = {str(one.source.target): one.scale for one in quantizers(layers("vnni").module) if one.is_weight}
    for one in quantizers(program.module):
        if one.is_weight:
            ratio = one.scale / finest[str(one.source.target)]
            assert ratio.min() >= 0.999
            assert ratio.max() <= 2.0


def test_affine_weights_have_half_the_range_there():
    program = layers("avx2", weight_symmetric=False)
    ends = [(one.scheme.qmin, one.scheme.qmax) for one in quantizers(program.module) if one.is_weight]
    assert set(ends) == {(-64, 63)}


@pytest.mark.slow
def test_dynamic_weight_only_and_static_best_there():
    assert overflowing(layers("avx2", "dynamic"), "avx2") == {}
    assert overflowing(layers("avx2", "static-best"), "avx2") == {}
    # Weights alone are multiplied in float: they keep all eight bits.
    scales = [[one.scale for one in quantizers(layers(p, "weight-only").module)] for p in ("avx2", "vnni")]
    assert all(torch.equal(a, b) for a, b in zip(*scales, strict=True))


@pytest.mark.slow
def test_training_stays_within_the_limits():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    x = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    program = capture(model, x[:2])
    batches = [(x[i : i + 16], (x[i : i + 16].sum(1) * 2).long() % 8) for i in range(0, 64, 16)]
    chosen = Options(processor="avx2", training=zp.TrainingOptions(epochs=3, learning_rate=30.0))
    with warnings.catch_warnings(action="ignore"):
        trained = zp.quantize(program, "qat", calibration=batches, train=batches, options=chosen)
    moved = [one.integers(trained.module).abs().max() for one in quantizers(trained.module) if one.is_weight]
    assert max(moved) > 64  # weights use more than seven bits
    assert overflowing(trained, "avx2") == {}


@pytest.mark.parametrize("signed", [False, True])
def test_the_simulation_is_the_arithmetic_of_the_kernels(signed: bool):
    """A linear layer by NumPy, every sum of two products cut to 16 bits as vpmaddubsw does."""
    linear = nn.Linear(5, 3)
    with torch.no_grad():
        linear.weight.copy_(
            torch.tensor([[1.0, 0.9, 0.9, 1.0, 1.0], [-1, -1, 1, -1, 0.5], [1, 0.1, 0.1, -1, -1]])
        )
    x = torch.rand(16, 5, generator=torch.Generator().manual_seed(0)) * 2 - (1 if signed else 0)
    program = capture(Function(lambda parts, x: parts[0](x), linear).eval(), x)
    chosen = options(processor="vnni", activation_symmetric=signed)
    quantized = quantize(program, "static", calibration=[x], target="openvino", options=chosen)
    activation, weight = sorted(quantizers(quantized.module), key=lambda one: one.is_weight)
    scale, zero_point = float(activation.scale), int(activation.zero_point)
    shift = 128 if activation.scheme.signed else 0  # as kernels make signed activations unsigned
    codes = (
        np.clip(np.round(x.numpy() / scale) + zero_point, activation.scheme.qmin, activation.scheme.qmax)
        + shift
    )
    integers = weight.integers(quantized.module).numpy().astype(np.int64)
    offset = zero_point + shift
    expected = np.zeros((16, 3))
    for o in range(3):
        for first in range(0, 5, 2):
            two = sum(codes[:, i] * integers[o, i] for i in range(first, min(first + 2, 5)))
            expected[:, o] += np.clip(two, -32768, 32767)
        expected[:, o] -= offset * integers[o].sum()
    expected = expected * scale * weight.scale.numpy() + linear.bias.detach().numpy()
    (result,) = on_processor(quantized, "avx2")(x)
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-2 * np.abs(expected).max() / 20)
    assert sqnr(quantized(x), result) < 30  # it does overflow
    assert torch.equal(on_processor(quantized, "vnni")(x)[0], on_processor(quantized, "arm")(x)[0])


@pytest.mark.skipif(not SATURATES, reason="this processor adds products of bytes in 32 bits")
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_the_simulation_is_what_this_processor_computes(engine: str):
    program = layers("vnni", engine=engine, rounding="nearest")
    x = data(7)[0]
    engines = zp.compile(program, engine, threads=1, batch_size=8)(x)
    assert sqnr(engines, program(x)) < 20
    assert sqnr(engines, on_processor(program, "avx2")(x)[0]) > 35


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "method"),
    [
        ("onnxruntime", "static"),
        ("onnxruntime", "dynamic"),
        ("openvino", "static"),
        ("openvino", "dynamic"),
        pytest.param("torch", "static", marks=pytest.mark.skipif(SATURATES, reason="compiled above")),
    ],
)
def test_engines_compute_what_the_simulation_does_on_this_processor(engine: str, method: str):
    program = layers("native", method, engine)
    x = data(7)[0]
    result = zp.compile(program, engine, threads=1, batch_size=8)(x)
    assert sqnr(program(x), result) > 33
