"""The axis of the batch is found by running the model, or that there is none."""

from pathlib import Path

import pytest
import torch
from networks import randomized
from torch import nn

import zeropoint as zp
from zeropoint.numerics.sqnr import sqnr_db


class Graph(nn.Module):
    """Messages between nodes (N, 16) along edges (E,): no axis is a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, nodes, sources, targets):
        hidden = self.into(nodes).relu()
        return self.out(hidden + torch.zeros_like(hidden).index_add(0, targets, hidden[sources]))


def graph(nodes: int, edges: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, nodes, (2, edges), generator=generator)
    return torch.randn(nodes, 16, generator=generator), ends[0], ends[1]


class Function(nn.Module):
    """A function of parts and inputs."""

    def __init__(self, function, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *inputs):
        return self.function(self.parts, *inputs)


def axes(function, *inputs, parts=()):
    return zp.capture(randomized(Function(function, *parts)), inputs).batch


def test_where_items_lie():
    x, sequence = torch.randn(3, 4), torch.randn(5, 3, 4)
    linear, gru = nn.Linear(4, 4), nn.GRU(4, 4)
    assert axes(lambda p, x: p[0](x), x, parts=[linear]).inputs == (0,)
    assert axes(lambda p, x: p[0](x)[0], sequence, parts=[gru]) == axes(
        lambda p, x: p[0](x)[0].relu(), sequence, parts=[gru]
    )
    found = axes(lambda p, x, h: p[0](x, h), sequence, torch.zeros(1, 3, 4), parts=[gru])
    assert (found.inputs, found.outputs) == ((1, 1), (1, 1))
    found = axes(lambda p, x, t: (p[0](x) * t, t + 1), x, torch.tensor(0.5), parts=[linear])
    assert (found.inputs, found.outputs) == ((0, None), (0, None))
    assert axes(lambda p, x: p[0](x).softmax(0), x, parts=[linear]).inputs == (None,)
    assert axes(lambda p, x: p[0](x) + torch.rand_like(x), x, parts=[linear]).inputs == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "static-best", "dynamic"])
def test_samples_without_a_batch_are_taken_whole(method: str, tmp_path: Path):
    network = randomized(Graph())
    program = zp.capture(network, graph(20, 50))
    assert not program.batch.is_known
    data = [graph(20 + seed, 50 - seed, seed) for seed in range(4)]
    quantized = zp.quantize(program, method, calibration=data, target="onnxruntime")
    runner = zp.compile(quantized, "onnxruntime", threads=1, path=tmp_path / "graph")
    for sample in (graph(20, 50, 8), graph(33, 70, 9)):
        expected = network(*sample)
        assert sqnr_db(expected, quantized(*sample)) > 25
        assert sqnr_db(expected, runner(*sample)) > 25


def test_a_batch_on_another_axis_is_compiled_for_any_size():
    cell = randomized(Function(lambda p, x, h: p[0](x, h), nn.GRU(4, 6)))
    program = zp.capture(cell, (torch.randn(5, 1, 4), torch.zeros(1, 1, 6)))
    assert program.batch.inputs == (1, 1)
    runner = zp.compile(program, "onnxruntime", threads=1, batch_size=3)
    given = torch.randn(5, 7, 4), torch.randn(1, 7, 6)
    for found, expected in zip(runner(*given), cell(*given), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
