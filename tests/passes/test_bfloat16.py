"""Graphs in bfloat16: every float inside is, inputs and outputs are not; and where they serve to observe."""

from typing import Any

import pytest
import torch
from networks import Function, images, randomized, residual
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.graph import macs
from zeropoint.graph.capture import capture
from zeropoint.passes import bfloat16 as module_of
from zeropoint.passes.bfloat16 import narrowed, observable

CONVERT = torch.ops.aten._to_copy.default


class Dtypes(Interpreter):
    """The type of every tensor that is computed."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, torch.dtype] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n.name] = value.dtype
        return value


def test_floats_inside_are_bfloat16_and_the_numbers_near():
    program = residual()
    names = [node.name for node in program.module.graph.nodes]
    module = narrowed(program.module)
    run = Dtypes(module)
    run.run(images())
    inside = [name for name in names if name not in ("x", "output")]
    assert {run.found[name] for name in inside if name in run.found} == {torch.bfloat16}
    assert set(inside) <= run.found.keys()
    assert run.found["x"] == torch.float32
    result, expected = module(images()), program(images())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0.03, atol=0.03 * float(expected.abs().max()))
    assert not torch.equal(result, expected)
    # The one that was given stays.
    assert {value.dtype for value in program.module.parameters()} == {torch.float32}
    assert [node.name for node in program.module.graph.nodes] == names


class Tokens(nn.Module):
    """Integers in and out, floats made in between, and conversions to both of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(8, 4), nn.Linear(4, 4)
        self.register_buffer("order", torch.tensor([3, 2, 1, 0]))

    def forward(self, tokens: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.table(tokens) + torch.ones(4) + x.to(torch.float32) + tokens.float().unsqueeze(-1)
        y = self.layer(y)[..., self.order]
        return y, y.argmax(-1), tokens + 1


def test_integers_stay_and_constants_of_floats_do_not():
    tokens = torch.tensor([[1, 2, 7], [3, 0, 5]])
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    program = capture(randomized(Tokens()), (tokens, x))
    run = Dtypes(narrowed(program.module))
    found = run.run(tokens, x)
    expected = program(tokens, x)
    assert [value.dtype for value in found] == [torch.float32, torch.int64, torch.int64]
    torch.testing.assert_close(found[0], expected[0], rtol=0.05, atol=0.05)
    assert torch.equal(found[2], expected[2])
    floats = {name for name, dtype in run.found.items() if dtype == torch.float32}
    results = set(run.module.graph.output_node().all_input_nodes)
    assert floats == {"x", *(node.name for node in results if run.found[node.name] == torch.float32)}


class Made(nn.Module):
    """Floats made of none, of the size of the batch: of the default type, or of the one that is said."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

    def forward(self, x: Tensor, numbers: Tensor) -> list[Tensor]:
        count = x.shape[0]
        made = (
            torch.zeros(count, 4),
            torch.full((count, 4), 0.5),
            torch.arange(0.0, count).unsqueeze(1),
            torch.arange(count).unsqueeze(1) / 4,
            torch.ones(count, 4, dtype=torch.float32),
            numbers * 0.25,
        )
        return [layer(x + one) for layer, one in zip(self.layers, made, strict=True)]


def test_floats_of_the_default_type_are_narrow_too():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(12).reshape(3, 4)
    program = capture(randomized(Made()), (x[:2], numbers[:2]))
    module = narrowed(program.module)
    for found, expected in zip(module(x, numbers), program(x, numbers), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    wide = [
        node
        for node in module.graph.nodes
        if node.target is CONVERT and node.kwargs["dtype"] is torch.float32
    ]
    assert len(wide) == 6  # the outputs alone


def test_an_input_that_is_given_back_stays_as_wide():
    narrow = narrowed(capture(Function(lambda _, x: (x, x + 1)), torch.ones(2, 3)).module)
    assert [value.dtype for value in narrow(torch.ones(2, 3))] == [torch.float32] * 2


X = torch.tensor([[2.0, 0.0], [0.0, 4.0]])


def machine(*instruction_sets: str, processor: str = "Intel(R) Xeon(R)") -> dict[str, object]:
    return {"processor": processor, "instruction_sets": list(instruction_sets)}


@pytest.mark.parametrize(
    ("about", "is_narrow"),
    [
        (machine("avx512f", "amx_bf16"), True),
        (machine("avx512_bf16", processor="AMD EPYC 9654"), True),
        (machine("avx512_bf16"), False),
        (machine("avx2", processor="AMD EPYC 7002"), False),
        (machine(), False),
    ],
)
def test_large_networks_are_observed_in_bfloat16_where_that_is_twice_as_fast(about, is_narrow, monkeypatch):
    monkeypatch.setattr(module_of.machine, "describe", lambda: about)
    program = residual()
    assert observable(program, {"relu_"}) is program.module  # a small one
    monkeypatch.setattr(macs, "HEAVY", 0)
    module = observable(program, {"relu_", "conv2d_1"})
    assert (module is not program.module) == is_narrow
    assert ({value.dtype for value in module.parameters()} | {value.dtype for value in module.buffers()}) == {
        torch.bfloat16 if is_narrow else torch.float32
    }


@pytest.fixture
def narrow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of.machine, "describe", lambda: machine("amx_bf16"))
    monkeypatch.setattr(macs, "HEAVY", 0)


@pytest.mark.usefixtures("narrow_machine")
def test_an_operator_without_a_kernel_or_a_lost_node_forbids_it():
    inverse = capture(Function(lambda _, x: torch.inverse(x) + 1), X)
    with pytest.raises((RuntimeError, NotImplementedError)):
        narrowed(inverse.module)(X)
    assert observable(inverse, {"add"}) is inverse.module
    program = residual()
    assert observable(program, {"relu_", "lost"}) is program.module
