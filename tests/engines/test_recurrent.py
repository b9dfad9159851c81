"""Recurrent layers on every engine: all kinds and settings, states given and returned, and free lengths."""

import itertools

import pytest
import torch
from networks import sqnr
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.engines import NAMES
from zeropoint.graph.operators import RECURRENT
from zeropoint.graph.program import parameter_bytes
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.size import on_disk

SETTINGS = {
    "lstm": lambda: nn.LSTM(6, 8, batch_first=True),
    "two layers, both ways": lambda: nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True),
    "no biases": lambda: nn.LSTM(6, 8, bias=False, batch_first=True, bidirectional=True),
    "projected": lambda: nn.LSTM(6, 8, 2, batch_first=True, proj_size=3),
    "projected both ways": lambda: nn.LSTM(6, 8, batch_first=True, proj_size=3, bidirectional=True),
    "gru": lambda: nn.GRU(6, 8, 2, batch_first=True, bidirectional=True),
    "gru without biases": lambda: nn.GRU(6, 8, bias=False, batch_first=True),
    "tanh": lambda: nn.RNN(6, 8, batch_first=True),
    "relu": lambda: nn.RNN(6, 8, 2, nonlinearity="relu", batch_first=True, bidirectional=True),
}


class Recurrent(nn.Module):
    """A layer of each setting, and cells in a loop; each gives its output and last states, batch first.

    The first layer starts from the states that are given, (N, 1, 8), the others from zeros, or from a
    part of the input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for make in SETTINGS.values())
        self.cells = nn.ModuleList([nn.LSTMCell(6, 8), nn.GRUCell(8, 8), nn.RNNCell(8, 8)])

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        given = h.transpose(0, 1), c.transpose(0, 1)
        outputs = list[Tensor]()
        for number, layer in enumerate(self.layers):
            state = None
            if number == 0:
                state = given
            elif layer.mode == "LSTM" and layer.proj_size:
                count = layer.num_layers * (1 + layer.bidirectional)
                state = given[0][:, :, :3].expand(count, -1, -1), given[1].expand(count, -1, -1)
            output, last = layer(x, state)
            outputs += [
                output,
                *(one.transpose(0, 1) for one in (last if isinstance(last, tuple) else [last])),
            ]
        lstm, gru, rnn = self.cells
        first, second = (h[:, 0], c[:, 0]), None
        for step in range(2):
            first = lstm(x[:, step], first)
            second = rnn(gru(first[0], second), second)
        return *outputs, first[1], second


def inputs(length: int, batch: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(length)
    shapes = (batch, length, 6), (batch, 1, 8), (batch, 1, 8)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Recurrent().eval()


@pytest.fixture(scope="module")
def program(model: nn.Module) -> zp.Program:
    return zp.capture(model, inputs(3), free_sizes=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "method"),
    [
        *itertools.product(NAMES, ["fp32", "static"]),
        ("openvino", "dynamic"),  # the same graph as static, as that of weight-only
        ("onnxruntime", "weight-only"),
    ],
)
def test_every_output_is_right_for_every_length(model, program, engine: str, method: str):
    made = zp.quantize(program, method, calibration=[inputs(3)], target=engine)
    matrices = sum(parameter.dim() == 2 for parameter in model.parameters())
    assert sum(one.is_weight for one in quantizers(made.module)) == (method != "fp32") * matrices
    runner = zp.compile(made, engine, threads=1, batch_size=3)
    for length in (3,) if engine in ("torch", "executorch") else (3, 2, 9):
        given = inputs(length)
        with torch.no_grad():
            expected = model(*given)
        for one, simulated, found in zip(expected, made.flat(*given), runner.flat(*given), strict=True):
            assert sqnr(simulated, found) > 90
            assert sqnr(one, found) > (90 if method == "fp32" else 30)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_file_does_not_grow_with_the_length_and_integers_are_small(engine: str):
    torch.manual_seed(0)
    model = nn.LSTM(64, 128, batch_first=True)
    sizes = []
    for length in (3, 60):
        data = torch.randn(2, length, 64)
        program = zp.quantize(zp.capture(model, data), calibration=[data], target=engine)
        sizes.append(on_disk(zp.compile(program, engine, threads=1).artefact))
    weights = sum(one.numel() for one in model.parameters() if one.dim() == 2)
    assert abs(sizes[1] - sizes[0]) < 500
    assert max(sizes) < 1.35 * weights
    assert parameter_bytes(program) < 1.2 * weights


def test_why_the_state_stays_float_is_told():
    data = torch.randn(2, 4, 6)
    program = zp.quantize(zp.capture(nn.RNN(6, 8, batch_first=True), data), calibration=[data])
    told = {decision.rule: decision.reason for decision in program.decisions}
    assert told["matrices of a recurrent layer"] is None
    assert "unpacked when they are used" in told["state of a recurrent layer"]
    assert any(node.target in RECURRENT for node in program.module.graph.nodes)
