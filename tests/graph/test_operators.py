"""The table of operators: its rows against what PyTorch computes."""

import dataclasses

import pytest
import torch
from networks import ADDS_INSIDE, options, sqnr, static
from torch import nn

from zeropoint.graph import operators
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import OPERATORS, WEIGHTED, aten, family, weighted
from zeropoint.graph.quantizers import quantizers

X = torch.linspace(-9, 9, 96).reshape(1, 2, 6, 8)
ARGUMENTS = {
    aten.hardtanh.default: (-0.5, 2.0), aten.clamp.default: (0.0, 6.0), aten.avg_pool2d.default: ([2, 2],),
    aten.adaptive_avg_pool2d.default: ([1, 1],), aten.max_pool2d.default: ([2, 2],), aten.mean.dim: ([2],),
}  # fmt: skip
UNARY = [target for target, row in OPERATORS.items() if row.by_channel or row.scales]


def apply(target, x):
    others = (3 * x,) if target is aten.add.Tensor else ARGUMENTS.get(target, ())
    return target(x, *others)


@pytest.mark.parametrize("target", UNARY, ids=str)
def test_operators_scale_with_their_input_as_the_table_says(target):
    scaled = torch.allclose(apply(target, 1.7 * X), 1.7 * apply(target, X), rtol=1e-5, atol=1e-6)
    assert scaled == OPERATORS[target].scales


@pytest.mark.parametrize("target", [t for t in UNARY if OPERATORS[t].by_channel], ids=str)
def test_these_operators_treat_every_channel_alike(target):
    torch.testing.assert_close(apply(target, X.flip(1)), apply(target, X).flip(1), rtol=0, atol=0)


@pytest.mark.parametrize("target", [target for target, row in OPERATORS.items() if row.clamps], ids=str)
def test_limits_are_those_that_values_reach(target):
    low, high = OPERATORS[target].clamps(X, *ARGUMENTS.get(target, ()))
    value = apply(target, X)
    assert value.min() == (X.min() if low is None else low)
    assert value.max() == (X.max() if high is None else high)


@pytest.mark.parametrize("target", WEIGHTED, ids=str)
def test_arguments_of_layers_are_where_the_schema_has_them(target):
    names = [argument.name for argument in target._schema.arguments]
    layer = WEIGHTED[target]
    assert names[layer.input] in ("input", "self", "mat1")
    assert names[layer.weight] in ("weight", "other", "mat2")
    assert layer.bias is None or names[layer.bias] in ("bias", "self")


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3), torch.randn(2, 4, 9)),
    "conv": (nn.Conv2d(4, 6, 3, padding="same"), torch.randn(2, 4, 5, 5)),
    "conv3d": (nn.Conv3d(4, 6, 3, padding="same"), torch.randn(2, 4, 5, 5, 5)),
    "conv_transpose": (nn.ConvTranspose3d(4, 6, 2), torch.randn(2, 4, 5, 5, 5)),
    "linear": (nn.Linear(4, 6), torch.randn(2, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_one_row_is_all_that_a_layer_needs(name: str, monkeypatch: pytest.MonkeyPatch):
    """Its weight gets a scale for each output channel and its input a quantizer; without the row nothing."""
    layer, x = LAYERS[name]
    program = capture(layer.eval(), x)
    target = dataclasses.replace(ADDS_INSIDE, weighted=frozenset({name}))
    (node,) = [node for node in program.module.graph.nodes if weighted(node)]
    assert family(node) == name
    quantized = static(program, target, [x], options())
    found = list(quantizers(quantized.module))
    assert sorted(len(one.scale) for one in found) == [1, 6]
    assert sqnr(program(x), quantized(x)) > 30
    monkeypatch.delitem(operators.WEIGHTED, node.target)
    assert not list(quantizers(static(capture(layer.eval(), x), target, [x], options()).module))
