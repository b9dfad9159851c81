"""Weights of linear layers with a scale for every group of inputs."""

import itertools

import numpy as np
import pytest
import torch
from mixed import batches, noise_db
from networks import ADDS_INSIDE, images, options, qat, randomized, residual, static, weight_only
from torch import nn

from zeropoint.engines import compile
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program, load, parameter_bytes
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.integers import Integers, integers
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options
from zeropoint.targets.placement import place_static
from zeropoint.training.options import TrainingOptions


def grouped(size: int | None = None, **chosen: object) -> Options:
    return options(weight_granularity="per-group", group_size=size, **chosen)


def linear(inputs: int = 64, outputs: int = 6) -> tuple[nn.Linear, Program, list[torch.Tensor]]:
    """A layer whose weights are of very different sizes, its Program, and data of inputs that go together."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data.mul_(torch.exp(torch.randn_like(layer.weight)))
    mixing = torch.randn(inputs // 4, inputs)
    data = [torch.randn(32, inputs // 4) @ mixing for _ in range(8)]
    return layer, capture(layer, data[0]), data


def by_numpy(weight: np.ndarray, size: int, bits: int) -> np.ndarray:
    """Every group of a row on a symmetric grid of its own."""
    rounded, top = np.empty_like(weight), 2 ** (bits - 1) - 1
    for row, out in zip(weight, rounded, strict=True):
        for first in range(0, len(row), size):
            scale = np.abs(row[first : first + size]).max() / top
            out[first : first + size] = np.rint(row[first : first + size] / scale) * scale
    return rounded


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("size", [16, 32])
def test_groups_by_hand(bits: int, size: int, tmp_path):
    layer, program, data = linear()
    chosen = grouped(size, weight_bits=bits, weight_ranges="minmax", end_bits=bits)
    quantized = weight_only(program, ADDS_INSIDE, data, chosen)
    weight = by_numpy(layer.weight.detach().double().numpy(), size, bits)
    expected = data[0].double().numpy() @ weight.T + layer.bias.detach().double().numpy()
    assert quantized(data[0]).numpy() == pytest.approx(expected, abs=2e-4)
    quantized.save(tmp_path / "m.pt2")
    loaded = load(tmp_path / "m.pt2")
    assert torch.equal(loaded(data[0]), quantized(data[0]))
    (found,) = quantizers(loaded.module)
    assert found.scale.shape == (6 * 64 // size,)
    assert parameter_bytes(quantized) == 6 * 64 * bits // 8 + 4 * 6 * 64 // size + 4 * 6


def test_gptq_is_on_the_grid_of_each_group_and_nearer():
    _, program, data = linear()
    nearest = weight_only(program, ADDS_INSIDE, data, grouped(16, weight_bits=4))
    fitted = weight_only(program, ADDS_INSIDE, data, grouped(16, weight_bits=4, rounding="gptq"))
    expected, found = (next(quantizers(each.module)) for each in (nearest, fitted))
    assert torch.equal(found.scale, expected.scale)
    levels = fitted.module.get_parameter("weight").detach() / found.scale.unsqueeze(1)
    assert (levels - levels.round()).abs().max() < 1e-4
    assert levels.abs().max() <= 8.01
    x = torch.cat(data)
    assert noise_db(program(x), fitted(x)) > noise_db(program(x), nearest(x)) + 3


def test_smaller_groups_are_nearer_to_float():
    _, program, data = linear(256)
    variants = [options(weight_bits=4), *(grouped(size, weight_bits=4) for size in (128, 32, 8))]
    found = [
        noise_db(program(*data[:1]), weight_only(program, ADDS_INSIDE, data, v)(*data[:1])) for v in variants
    ]
    assert found == sorted(found)
    assert found[-1] > found[0] + 3


@pytest.mark.parametrize(
    ("inputs", "size", "expected"),
    [(256, None, 128), (128, None, None), (64, None, 32), (48, None, None), (96, 32, 32), (96, 64, None)],
)
def test_what_does_not_divide_is_quantized_per_channel(inputs: int, size: int | None, expected: int | None):
    _, program, _ = linear(inputs)
    placement = place_static(program.module, ADDS_INSIDE, grouped(size))
    (place,) = placement.weights
    assert (place.group, place.scheme.granularity) == (expected, "per-channel")
    assert len(placement.edges) == (expected is None)


def test_convolutions_stay_per_channel():
    places = place_static(residual().module, ADDS_INSIDE, grouped(4)).weights
    assert {place.node: place.group for place in places if place.group} == {"head_weight": 4}
    assert len(places) == 3


def test_wrong_group_sizes():
    with pytest.raises(InputError, match="a group size goes with --weight-granularity per-group"):
        Options(group_size=32)
    with pytest.raises(InputError, match="group_size is 1; give an int of 2 or more, or None"):
        Options(weight_granularity="per-group", group_size=1)


def test_they_are_trained_like_others():
    data = [(images(8, seed), torch.arange(8) % 5) for seed in range(2)]
    chosen = grouped(16, weight_bits=4, training=TrainingOptions(epochs=1))
    trained = qat(residual(), ADDS_INSIDE, [images(8)], chosen, data)
    found = {str(q.source.target): q.scale.numel() for q in quantizers(trained.module) if q.is_weight}
    assert found["head.weight"] == 5 * 64 // 16


def mlp() -> tuple[Program, list[torch.Tensor]]:
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    data = batches(64)
    return capture(randomized(network), data[0]), data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "method", "symmetric"),
    [
        *itertools.product(["onnxruntime"], ["weight-only", "static"], [True, False]),
        ("openvino", "weight-only", False),
        ("openvino", "static", True),
        ("torch", "weight-only", False),
    ],
)
def test_engines_unpack_them_and_compute_in_float(engine: str, method: str, symmetric: bool):
    program, data = mlp()
    chosen = grouped(16, weight_bits=4, weight_symmetric=symmetric)
    quantized = quantize(program, method, calibration=data, target=engine, options=chosen)
    runner = compile(quantized, engine, threads=1)
    assert noise_db(quantized(data[0]), runner(data[0])) > 100
    assert integers(quantized, runner) == Integers(0.0, ())


def test_openvino_multiplies_them_in_integers_by_what_it_quantizes_at_run_time():
    program, data = mlp()
    quantized = quantize(program, "dynamic", target="openvino", options=grouped(32, processor="vnni"))
    runner = compile(quantized, "openvino", threads=1)
    simulated, computed = (noise_db(program(data[0]), run(data[0])) for run in (quantized, runner))
    assert computed >= simulated - 1
    assert integers(quantized, runner).share == 1.0


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_dynamic_layers_of_other_engines_refuse_them(engine: str):
    with pytest.raises(
        InputError, match=f"^{engine} cannot run dynamic W8A8: .*; openvino and executorch can$"
    ):
        quantize(mlp()[0], "dynamic", target=engine, options=grouped(32))


def test_static_keeps_what_is_not_grouped_in_integers():
    program = residual()
    quantized = static(program, ADDS_INSIDE, [images(8)], grouped(16))
    runner = compile(quantized, "openvino", threads=1)
    assert integers(quantized, runner).share > 0.9
    assert noise_db(quantized(images()), runner(images())) > 45
