"""Engines compile for the shapes they meet, a few of them, and then once for all."""

import onnxruntime
import openvino
import pytest
import torch
from mixed import Recurrent, batches
from networks import randomized
from torch import Tensor, nn

from zeropoint.engines import compile
from zeropoint.engines.shapes import KEPT, Run, Shapes, by_shape
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program


def test_compiled_once_a_shape_and_beyond_a_few_once_for_all():
    compiled: list[Shapes | None] = []

    def compile_for(shapes: Shapes | None) -> Run:
        compiled.append(shapes)
        return lambda *inputs: (torch.tensor(-1 if shapes is None else shapes[0][0]),)

    run = by_shape(compile_for)
    sizes = [*range(1, KEPT + 1), KEPT + 1, KEPT + 2, 1, KEPT, KEPT + 1]
    answers = [run(torch.zeros(size, 3), torch.zeros(2))[0].item() for size in sizes]
    assert answers == [size if size <= KEPT else -1 for size in sizes]
    assert compiled == [*(((size, 3), (2,)) for size in range(1, KEPT + 1)), None]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_size_of_batch_is_right_and_few_are_compiled_for(
    engine: str, float32: Program, data: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    count = 0

    def counting(original):
        def spy(*arguments, **keywords):
            nonlocal count
            count += 1
            return original(*arguments, **keywords)

        return spy

    for owner, name in ((onnxruntime, "InferenceSession"), (openvino.Core, "compile_model")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
    runner = compile(float32, engine, threads=1)
    for size in (8, 1, 2, 3, 4, 5, 8, 1, 7):
        expected = float32(data[0][:size])
        torch.testing.assert_close(runner(data[0][:size]), expected, rtol=0, atol=1e-4)
    assert count == KEPT + 1


@pytest.mark.slow
def test_what_compiles_with_free_sizes_only_runs_with_those(monkeypatch: pytest.MonkeyPatch):
    (data, *_) = batches(5, 6)
    program = capture(randomized(Recurrent(nn.LSTM)), data[:1])
    original, asked = openvino.Core.compile_model, []

    def picky(self, model, *arguments):
        asked.append(model.inputs[0].get_partial_shape().is_static)
        if asked[-1]:
            raise RuntimeError("no fixed sizes")
        return original(self, model, *arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", picky)
    runner = compile(program, "openvino", threads=1)
    for size in (8, 3):
        torch.testing.assert_close(runner(data[:size]), program(data[:size]), rtol=0, atol=1e-5)
    assert asked == [True, False] * 3  # for the example inputs, too
