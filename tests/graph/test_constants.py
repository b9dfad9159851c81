"""What parameters and constants alone decide is computed once, at capture, and is stored."""

import pytest
import torch
import torch.nn.functional as F
from networks import ADDS_INSIDE, options, sqnr, static
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from zeropoint.graph.capture import capture
from zeropoint.graph.constants import constant, is_constant
from zeropoint.graph.operators import aten
from zeropoint.graph.quantizers import quantizers


class Model(nn.Module):
    """A function of the module itself, with some parameters to compute with."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        torch.manual_seed(0)
        self.w, self.b = nn.Parameter(torch.randn(8, 8) / 3), nn.Parameter(torch.randn(8))
        self.stack, self.kernel = (
            nn.Parameter(torch.randn(2, 8, 8) / 3),
            nn.Parameter(torch.randn(8, 8, 1) / 3),
        )
        self.table = nn.Embedding(20, 8)
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.1)
        self.parts = nn.ModuleDict(parts)

    def forward(self, x):
        return self.function(self, x)


def x(seed=1):
    return torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))


def computed(program):
    """Names of the operators that need no input."""
    return [n.name for n in program.module.graph.nodes if n.op == "call_function" and is_constant(n)]


def weights(program):
    return {quantizer.name for quantizer in quantizers(program.module) if quantizer.is_weight}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "normed",
    [
        lambda: weight_norm(nn.Conv1d(8, 8, 3)),
        lambda: spectral_norm(nn.Linear(8, 8)),
        lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
        lambda: parametrizations.spectral_norm(nn.Conv1d(8, 8, 3)),
    ],
)
def test_reparametrized_weights_are_stored_and_quantized(normed):
    layer = normed().eval()
    program = capture(layer, x())
    assert set(dict(program.module.named_parameters())) == {"weight", "bias"}
    assert not dict(program.module.named_buffers())
    assert not computed(program)
    quantized = static(program, ADDS_INSIDE, [x(), x(2)], options())
    assert weights(quantized) == {"weight"}
    assert sqnr(layer(x()).detach(), quantized(x())) > 30


CASES = {
    "a bias": lambda m, x: F.linear(x, m.w, m.b * 0.5),
    "of a batch norm": lambda m, x: F.batch_norm(F.conv1d(x, m.kernel), m.mean, m.variance, m.b.abs(), m.b),
    "a stack": lambda m, x: x[:, None] @ m.stack,
    "every axis": lambda m, x: F.linear(x, m.w) + F.linear(x, m.w).mean(dim=None) * 0.1,
    "a product": lambda m, x: torch.addmm(m.b, x[:, 0], m.w, beta=2, alpha=0.5),
    "a bias of inputs": lambda m, x: F.linear(x, m.w, x[0, 0]) + F.conv1d(x, m.kernel, None),
    "a matrix bias": lambda m, x: torch.addmm(m.w[:4], x[:, 0], m.w.t()),
    "indices": lambda m, x: F.linear(x, m.w)[:, *torch.triu_indices(4, 4, 1)] * torch.arange(1.0, 7),
    "a slice": lambda m, x: F.linear(x, m.w[:4], m.b[:4]),
    "tied": lambda m, x: m.table(torch.arange(4)).sum() * 0.1 + x @ m.table.weight.t(),
    "tied and scaled": lambda m, x: F.linear(F.linear(x, m.w), m.w * 0.5),
    "tied along both axes": lambda m, x: F.linear(F.linear(x, m.w), m.w.t()) + x @ m.w,
    "a convolution and its transpose": lambda m, x: F.conv_transpose1d(F.conv1d(x, m.kernel), m.kernel),
}


@pytest.mark.parametrize("case", CASES)
def test_constants_that_are_computed(case):
    model = Model(CASES[case]).eval()
    program = capture(model, x())
    assert not computed(program)
    quantized = static(program, ADDS_INSIDE, [x(), x(2)], options())
    assert sqnr(model(x()).detach(), quantized(x())) > 30


def test_a_matrix_that_is_read_transposed_is_stored_once():
    program = capture(Model(CASES["tied"]).eval(), x())
    assert [tuple(p.shape) for p in program.module.parameters() if p.dim()] == [(20, 8)]
    program = capture(Model(lambda m, x: F.linear(x, m.w * 0.5) + F.linear(x, m.w * 0.5, m.b)), x())
    assert sorted(tuple(p.shape) for p in program.module.parameters()) == [(8,), (8, 8)]


def test_what_would_make_the_file_far_larger_stays_computed():
    size = 200

    def masked(m, x):
        place = torch.arange(size)
        return (
            F.linear(x, m.w)
            + (place[:, None] - place).float().tril().sum() * 1e-6
            + m.w.expand(99, 9, 8, 8).sum()
        )

    program = capture(Model(masked), x())
    stored = sum(tensor.nbytes for tensor in program.module.state_dict().values())
    assert stored < 4000
    assert all(n.target is not aten.arange.default for n in program.module.graph.nodes)


def test_sizes_that_are_free_and_chance_are_no_constants():
    def positions(m, x):
        return x + torch.arange(x.shape[1])[:, None] + torch.rand(8) * 0

    program = capture(Model(positions), x(), free_sizes=True)
    assert {"arange", "rand"} <= {node.name for node in program.module.graph.nodes}
    assert not [n for n in program.module.graph.nodes if "rand" in n.name and is_constant(n)]
    assert torch.equal(program(x()[:, :5]), x()[:, :5] + torch.arange(5)[:, None])


def test_the_value_of_a_constant():
    program = capture(Model(lambda m, x: x + m.w * 2), x())
    add = next(node for node in program.module.graph.nodes if node.target is aten.add.Tensor)
    x_node, stored = add.args
    torch.testing.assert_close(constant(program.module, stored), program.module.get_parameter(stored.target))
    assert constant(program.module, x_node) is None
    assert constant(program.module, add) is None


def test_a_constant_that_is_computed_from_one_that_is_used_too():
    model = Model(lambda self, x: (x * (scale := self.b.exp()), x + (scale - 1) * self.mean)).eval()
    program = capture(model, x())
    calls = [node.target for node in program.module.graph.nodes if node.op == "call_function"]
    assert calls == [aten.mul.Tensor, aten.add.Tensor]
    for wanted, found in zip(model(x(2)), program.flat(x(2)), strict=True):
        torch.testing.assert_close(found, wanted)
