"""Adaptive pooling on every engine: to one place, to fewer and to more than there are."""

from copy import deepcopy

import pytest
import torch
from mixed import noise_db
from networks import randomized
from torch import Tensor, nn

from zeropoint.engines import compile
from zeropoint.graph.capture import capture
from zeropoint.quantization import quantize

INPUTS = {1: (10,), 2: (8, 6), 3: (4, 6, 5)}
OUTPUTS = {"one": (1, 1, 1), "fewer": (3, 4, 2), "more": (7, 9, 8)}


class Pooled(nn.Module):
    """A convolution, pooling, and a layer on what is left of each place."""

    def __init__(self, kind: str, axes: int, outputs: tuple[int, ...]) -> None:
        super().__init__()
        layer = getattr(nn, f"Conv{axes}d")
        self.first, self.head = layer(6, 6, 3, padding=1), layer(6, 4, 1)
        self.pool = getattr(nn, f"Adaptive{kind}Pool{axes}d")(outputs[:axes] if axes > 1 else outputs[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(nn.functional.relu(self.first(x))))


@pytest.mark.slow
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("axes", INPUTS)
@pytest.mark.parametrize("kind", ["Avg", "Max"])
def test_adaptive_pooling(kind: str, axes: int, outputs: str):
    network = randomized(Pooled(kind, axes, OUTPUTS[outputs]))
    batches = [torch.randn(4, 6, *INPUTS[axes]) for _ in range(4)]
    program = capture(network, batches[0][:2])
    with torch.inference_mode():
        expected = network(batches[1])
    for engine in ("openvino", "onnxruntime"):
        assert torch.allclose(compile(program, engine)(batches[1]), expected, atol=1e-5), engine
        static = quantize(program, "static", calibration=batches, target=engine)
        simulated, computed = (run(batches[1]) for run in (static, compile(static, engine)))
        assert noise_db(expected, computed) > noise_db(expected, simulated) - 0.5, engine


MEANS = {
    "beyond the image": nn.AvgPool2d(2, 2, ceil_mode=True),
    "beyond the padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "in the padding at the end": nn.AvgPool2d(2, 2, 1, ceil_mode=True),
    "without the padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "by a divisor": nn.AvgPool2d((3, 2), 2, 1, divisor_override=5),
    "by a divisor, beyond": nn.AvgPool2d(3, 2, (1, 0), True, divisor_override=7),
    "of one axis": nn.Sequential(nn.Flatten(2), nn.AvgPool1d(5, 3, 2, True), nn.Unflatten(2, (1, -1))),
    "of three axes": nn.Sequential(
        nn.Unflatten(2, (3, 3)), nn.AvgPool3d(2, 3, 1, True, divisor_override=3), nn.Flatten(2, 3)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", MEANS)
def test_means_of_windows_at_the_edge(name: str, engine: str):
    """ONNX Runtime's integer kernel divided by all of a window, also beyond the image; OpenVINO had 22 dB."""
    network = randomized(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), MEANS[name], nn.Conv2d(6, 4, 1)))
    batches = [torch.randn(4, 3, 9, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    program = capture(network, batches[0][:2])
    exact = deepcopy(network).double()(batches[1].double())
    assert torch.allclose(program(batches[1]).double(), exact, atol=1e-5)
    assert torch.allclose(compile(program, engine)(batches[1]).double(), exact, atol=1e-5)
    static = quantize(program, "static", calibration=batches, target=engine)
    simulated, computed = (run(batches[1]) for run in (static, compile(static, engine)))
    assert noise_db(exact, computed) > noise_db(exact, simulated) - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("axes", INPUTS)
def test_places_of_maxima(axes: int):
    class Places(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            pool = getattr(nn.functional, f"adaptive_max_pool{axes}d")
            return pool(self.first(x), self.pool.output_size, return_indices=True)[1]

    network = randomized(Places("Max", axes, OUTPUTS["fewer"]))
    x = torch.randn(2, 6, *INPUTS[axes])
    assert torch.equal(compile(capture(network, x), "onnxruntime")(x), network(x))
