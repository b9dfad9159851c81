"""A part that alone is read of a value has a range of its own."""

from collections.abc import Callable

import pytest
import torch
from networks import sqnr
from torch import Tensor, nn

import zeropoint as zp
from zeropoint import engines
from zeropoint.graph.capture import capture
from zeropoint.graph.moves import is_part
from zeropoint.targets.options import Options
from zeropoint.targets.placement import place_static

Read = Callable[[Tensor], Tensor]


class Tokens(nn.Module):
    """Normed tokens, whose first is a hundred times as small as the others, and a layer that reads them."""

    def __init__(self, read: Read, *, returned: bool = False, made_by: nn.Module | None = None) -> None:
        super().__init__()
        self.before, self.head = made_by or nn.Identity(), nn.Linear(8, 4)
        self.read, self.returned = read, returned
        self.sizes = nn.Parameter(torch.tensor([0.01, 1, 1, 1, 1, 1]).unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """``x`` is (N, 6, 8)."""
        tokens = self.before(x.tanh() * self.sizes)
        found = self.head(self.read(tokens))
        return (found, tokens) if self.returned else found


def first(x: Tensor) -> Tensor:
    return x[:, 0]


def placed(model: nn.Module) -> set[tuple[str, str]]:
    module = capture(model.eval(), torch.randn(2, 6, 8)).module
    edges = place_static(module, engines.target("openvino", "vnni"), Options()).edges
    return {(edge.source, edge.user) for edge in edges}


@pytest.mark.parametrize(
    ("model", "sources"),
    [
        (Tokens(first), {"select"}),
        (Tokens(first, returned=True), {"select"}),
        (Tokens(lambda x: x[:, :2].flatten(1)[:, :8]), {"slice_4"}),
        (Tokens(lambda x: x[:, 0] + x[:, 1]), {"add", "select", "select_1"}),
        (Tokens(lambda x: x[:, :5]), {"mul", "slice_2"}),
        (Tokens(first, made_by=nn.Linear(8, 8)), {"mul", "select"}),
        (Tokens(first, made_by=nn.Conv1d(6, 6, 1)), {"mul", "conv1d", "select"}),
    ],
    ids=[
        "a part",
        "all is an output",
        "a part of a part",
        "a sum of parts",
        "most of it",
        "of a layer",
        "of a convolution",
    ],
)
def test_where_a_part_is_quantized(model: nn.Module, sources: set[str]) -> None:
    assert {source for source, _ in placed(model)} == sources


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_small_part_keeps_its_bits(engine: str) -> None:
    """On the grid of all tokens it has one step, or none."""
    torch.manual_seed(0)
    model = Tokens(first).eval()
    model.head.bias.data.zero_()
    data = [torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(32)]
    quantized = zp.quantize(capture(model, data[0]), "static", calibration=data[:24], target=engine)
    runner = zp.compile(quantized, engine, threads=1)
    wanted, found = (torch.cat([run(x) for x in data[24:]]).detach() for run in (model, runner))
    assert sqnr(wanted, found) > 35


class Sliced(nn.Module):
    """Three slices, which are all of what a layer makes; the first of them is quantized before."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is (N, 8)."""
        made = self.first(x)
        quantized = torch.fake_quantize_per_tensor_affine(made, 0.1, 0, -128, 127)
        return quantized[..., :8] + made[..., 8:16] * made[..., 16:]


def test_quantizers_make_no_part_of_a_slice() -> None:
    """A part is looked up before and after quantizers are inserted, by the same name."""
    module = torch.export.export(Sliced().eval(), (torch.randn(2, 8),)).module()
    slices = module.graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor)
    assert len(slices) == 3
    assert not any(map(is_part, slices))
