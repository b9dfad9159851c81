"""Operators taken apart one of each kind are what run_decompositions makes of the whole graph."""

from collections import Counter

import pytest
import torch
from mixed import ManyOutputs, Mixed, Recurrent, Transformer, batches
from networks import randomized
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves

from zeropoint.engines.decompositions import decomposable, decompose, default_table
from zeropoint.graph.capture import capture
from zeropoint.graph.edits import copy
from zeropoint.graph.exported import assemble
from zeropoint.graph.operators import aten


class Windows(nn.Module):
    """What attention in windows does with the batch: sizes are products and quotients of it."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = x.reshape(n * 4, 4, 6)
        x = torch.softmax(x @ x.transpose(1, 2), -1) @ x
        first, second = x.chunk(2, 1)
        x = torch.cat([second, first], 1).reshape(x.shape[0] // 4, 16, 6)
        return nn.functional.layer_norm(x, (6,)).flatten(1) + x.reshape(n, -1).std(1, keepdim=True)


class Odd(nn.Module):
    """An operator that gives back its input, a constant made of nothing, and a median of two results."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values, places = nn.functional.max_pool2d(x, 2, return_indices=True)
        return x.contiguous().type_as(x).mul(2), values + torch.eye(values.shape[-1]), places


MODELS = {
    "mixed": (Mixed, (3, 16, 16)),
    "many outputs": (ManyOutputs, (3, 16, 16)),
    "lstm": (lambda: Recurrent(nn.LSTM), (2, 6)),
    "transformer": (Transformer, (5, 8)),
    "windows": (Windows, (16, 6)),
    "odd": (Odd, (3, 8, 8)),
    "two alike": (
        lambda: nn.Sequential(nn.Hardtanh(), nn.Linear(8, 8), nn.Hardtanh(), nn.Linear(8, 8)),
        (8,),
    ),
}


def operators(module: torch.fx.GraphModule) -> Counter[str]:
    """Without sizes, which the two ways compute in different places."""
    return Counter(
        str(node.target)
        for node in module.graph.nodes
        if node.op == "call_function" and not isinstance(node.meta["val"], torch.SymInt)
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_decomposed_is_what_torch_makes_of_the_whole_graph(model: str):
    make, shape = MODELS[model]
    data = batches(*shape)
    program = capture(randomized(make()), data[0])
    assert program.dynamic_batch
    exported = torch.export.export(program.module, (data[0],), dynamic_shapes=({0: Dim.AUTO},))
    expected = exported.run_decompositions(default_table()).module()
    found = copy(program.module)
    decompose(found, default_table())
    found.recompile()
    ignored = {"aten._assert_tensor_metadata.default", "aten._assert_scalar.default"}
    assert operators(found) == {
        name: count for name, count in operators(expected).items() if name not in ignored
    }
    again = assemble(found).module()
    for size in (2, 8, 5):
        batch = data[1][:size]
        reference = tree_leaves(expected(batch))
        for outputs in (found(batch), again(batch)):
            for a, b in zip(tree_leaves(outputs), reference, strict=True):
                assert torch.equal(a, b)


def test_what_is_not_in_the_table_stays_and_names_do():
    program = capture(randomized(Mixed()), batches()[0])
    module = copy(program.module)
    table = {target: parts for target, parts in default_table().items() if target is not aten.linear.default}
    before = {node.name: node.target for node in module.graph.nodes}
    decompose(module, table)
    after = {node.name: node.target for node in module.graph.nodes}
    assert after["linear"] is before["linear"] is aten.linear.default
    convolutions = {name for name, target in before.items() if target is aten.conv2d.default}
    assert len(convolutions) == 7
    assert {name for name, target in after.items() if target is aten.convolution.default} == convolutions


def test_exported_programs_decompose_without_a_trace_of_all(monkeypatch: pytest.MonkeyPatch):
    data = batches()
    program = capture(randomized(Mixed()), data[0])
    exported = decomposable(program, copy(program.module))
    sizes = []
    original = torch.export.ExportedProgram.run_decompositions

    def spy(self, *arguments: object):
        sizes.append(len([node for node in self.graph.nodes if node.op == "call_function"]))
        return original(self, *arguments)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", spy)
    module = exported.run_decompositions().module()
    all_operators = len([node for node in program.module.graph.nodes if node.op == "call_function"])
    assert len(sizes) == 1
    assert 0 < sizes[0] < all_operators
    torch.testing.assert_close(module(data[1]), program(data[1]))
