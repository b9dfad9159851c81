"""Adaptive pooling on every engine: to one place, to fewer and to more than there are."""

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
