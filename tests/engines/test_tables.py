"""Embeddings read integers: the same values, from a quarter of the bytes, and only the rows asked for."""

from pathlib import Path

import onnx
import pytest
import torch
from networks import options, randomized
from torch import Tensor, nn

from zeropoint.engines import compile
from zeropoint.engines.tables import look_up_integers
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import EMBEDDINGS, FAKE_QUANTIZE
from zeropoint.graph.program import Program
from zeropoint.measure.size import on_disk
from zeropoint.quantization import quantize

WORDS, WIDTH = 3000, 64


class Tagger(nn.Module):
    """A table of words, one of places, and a layer; with ``tied`` the layer's weight is the table's."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(16, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS if tied else 8)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x) + self.places(x % 16))


def sentences(seed: int, count: int = 4) -> Tensor:
    return torch.randint(WORDS, (count, 16), generator=torch.Generator().manual_seed(seed))


def quantized(method: str, tied: bool = False, engine: str = "openvino", **chosen: object) -> Program:
    program = capture(randomized(Tagger(tied)), sentences(0))
    return quantize(program, method, calibration=[sentences(1)], target=engine, options=options(**chosen))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "chosen",
    [{}, {"weight_granularity": "per-tensor"}, {"weight_symmetric": False}, {"end_bits": 4}],
    ids=str,
)
def test_rows_have_the_values_that_the_quantized_table_has(tied: bool, chosen: dict[str, object]):
    program = quantized("weight-only", tied, **chosen)
    module = look_up_integers(program).module
    lookups = [node for node in module.graph.nodes if node.target in EMBEDDINGS]
    assert lookups
    assert not {node.args[0].target for node in lookups} & FAKE_QUANTIZE
    stored = [fx.tensor_of(module, node.args[0]) for node in lookups]
    assert {len(tensor) for tensor in stored if tensor.dtype == torch.int8} == {WORDS, 16}
    x = sentences(2)
    torch.testing.assert_close(module(x), program.module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "method"),
    [
        ("openvino", "static"),
        ("openvino", "dynamic"),
        ("openvino", "weight-only"),
        ("onnxruntime", "static"),
        ("onnxruntime", "dynamic"),
        ("onnxruntime", "weight-only"),
        ("torch", "static"),
    ],
)
def test_engines_keep_a_table_in_a_byte_a_value(engine: str, method: str, tmp_path: Path):
    program = quantized(method, engine=engine)
    runner = compile(program, engine, path=tmp_path / "model", threads=1)
    x = sentences(2, count=1)
    expected = program(x)
    noise = (runner(x) - expected).square().mean() / expected.square().mean()
    assert noise < (1e-3 if method == "dynamic" else 1e-6)  # engines round at run time in their own ways
    beside = 550_000 if engine == "torch" else 50_000  # compiled code; the graph as text
    assert on_disk(runner.artefact) < WORDS * WIDTH + beside


def test_onnx_runtime_looks_up_integers(tmp_path: Path):
    runner = compile(quantized("static", engine="onnxruntime"), "onnxruntime", path=tmp_path / "model")
    graph = onnx.load(runner.artefact).graph
    integers = {one.name: one.dims for one in graph.initializer if one.data_type == onnx.TensorProto.INT8}
    looked_up = [
        integers[node.input[0]]
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in integers
    ]
    assert sorted(list(dims) for dims in looked_up) == [[16, WIDTH], [WORDS, WIDTH]]
