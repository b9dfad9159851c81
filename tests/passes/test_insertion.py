"""Quantizers put where a placement says: readers, scales and groups, against NumPy."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from networks import ADDS_INSIDE, Function, options
from torch import Tensor, nn
from torch.fx import Node

from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import insert_activation, quantizers
from zeropoint.numerics.ranges import weight_minmax, weight_mse
from zeropoint.numerics.scheme import Scheme
from zeropoint.passes.insertion import insert_quantizers
from zeropoint.targets.placement import Edge, Placement
from zeropoint.targets.sites import WeightPlace

CHANNELS = Scheme(granularity="per-channel")
EIGHT, FOUR = Scheme(8, False, False), Scheme(4, False, False)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def captured() -> Program:
    model = Function(lambda parts, x: parts[0](x) + parts[1](x) + x.exp(), nn.Linear(6, 6), nn.Linear(6, 6))
    return capture(model, seeded(2, 6))


def two_layers() -> Program:
    return copy.deepcopy(captured())


def name_of(program: Program, weight: str) -> str:
    """Of the node of a weight."""
    return next(node.name for node in program.module.graph.nodes if str(node.target) == weight)


def insert(program: Program, edges=(), weights=(), target=ADDS_INSIDE, **chosen: object) -> Program:
    """The Program with quantizers of a scale of 1 for activations."""
    module = fx.copy(program.module)

    def activation(source: Node, scheme: Scheme, _: str) -> Node:
        return insert_activation(module, source, torch.ones(1), torch.zeros(1), scheme)

    placement = Placement(frozenset(edges), frozenset(weights))
    insert_quantizers(module, placement, target, options(processor="vnni", **chosen), activation)
    return dataclasses.replace(program, module=module)


def test_readers_get_a_quantizer_for_each_scheme_and_the_others_none():
    edges = [Edge("x", "linear", EIGHT), Edge("x", "linear_1", FOUR)]
    module = insert(two_layers(), edges).module
    readers = {one.scheme: {user.name for user in one.node.users} for one in quantizers(module)}
    assert readers == {EIGHT: {"linear"}, FOUR: {"linear_1"}}
    module = insert(two_layers(), [Edge("x", name, EIGHT) for name in ("linear", "linear_1")]).module
    (one,) = quantizers(module)
    assert {user.name for user in one.node.users} == {"linear", "linear_1"}
    (exp,) = (node for node in module.graph.nodes if node.name == "exp")
    assert exp.args[0].name == "x"


@pytest.mark.parametrize(
    ("bits", "asked", "estimate"),
    [(8, None, weight_minmax), (4, None, weight_mse), (8, "mse", weight_mse), (4, "minmax", weight_minmax)],
)
def test_scales_of_weights_are_those_of_the_estimator(bits: int, asked: str | None, estimate):
    scheme, program = dataclasses.replace(CHANNELS, bits=bits), two_layers()
    with torch.no_grad():  # a row of many small weights and a large one, which is worth clipping
        program.module.get_parameter("parts.0.weight").copy_(seeded(6, 6) ** 5)
    name = name_of(program, "parts.0.weight")
    placed = insert(program, weights=[WeightPlace(name, 0, scheme)], weight_ranges=asked)
    (one,) = quantizers(placed.module)
    weight = program.module.get_parameter("parts.0.weight").detach()
    expected, _ = estimate(weight, scheme, 0)
    other, _ = (weight_mse if estimate is weight_minmax else weight_minmax)(weight, scheme, 0)
    assert torch.equal(one.scale, expected)
    assert not torch.equal(expected, other)
    assert [user.name for user in one.node.users] == ["linear"]
    assert placed(seeded(4, 6)).shape == (4, 6)


@pytest.mark.parametrize("bits", [8, 7])
def test_scales_are_safe_where_products_are_added_in_16_bits(bits: int):
    program = two_layers()
    with torch.no_grad():
        program.module.get_parameter("parts.0.weight").copy_(torch.ones(6, 6))
    name = name_of(program, "parts.0.weight")
    places = [WeightPlace(name, 0, dataclasses.replace(CHANNELS, bits=bits))]
    scales = []
    for processor in ("vnni", "avx2"):
        target = dataclasses.replace(ADDS_INSIDE, processor=processor)
        edges = [Edge("x", "linear", EIGHT)]
        placed = insert(program, edges, places, target, weight_ranges="minmax")
        scales += [one.scale[0].item() for one in quantizers(placed.module) if one.is_weight]
    largest = 127 if bits == 8 else 63
    # Two weights of 1 are 128 steps together there.
    assert scales == pytest.approx([1 / largest, 1 / 64 if bits == 8 else 1 / largest])


def by_groups(weight: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Every group of ``size`` along an axis on a symmetric 8-bit grid of its own."""
    moved = np.moveaxis(weight, axis, -1)
    groups = moved.reshape(-1, size)
    scale = np.abs(groups).max(1, keepdims=True) / 127
    return np.moveaxis((np.rint(groups / scale) * scale).reshape(moved.shape), -1, axis)


def test_groups_of_a_matrix():
    program = capture(nn.Linear(6, 3, bias=False), seeded(2, 6))
    placed = insert(program, weights=[WeightPlace(name_of(program, "weight"), 0, CHANNELS, group=2)])
    weight = by_groups(program.module.weight.detach().double().numpy(), 2, -1)
    x = seeded(5, 6, seed=1)
    np.testing.assert_allclose(placed(x).numpy(), x.double().numpy() @ weight.T, atol=1e-5)
    (one,) = quantizers(placed.module)
    assert one.scale.shape == (9,)
    assert placed.module.get_parameter("weight").shape == (9, 2)
    assert one.source.meta["val"].shape == (9, 2)


class Stack(nn.Module):
    """A product with each of some matrices; the inputs of (batches, inputs, outputs) lie along axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(seeded(2, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.stack


def test_groups_along_another_axis_of_a_stack():
    program = capture(Stack(), seeded(2, 5, 6))
    placed = insert(program, weights=[WeightPlace(name_of(program, "stack"), 0, CHANNELS, group=2, inputs=1)])
    stack = by_groups(program.module.stack.detach().double().numpy(), 2, 1)
    x = seeded(2, 5, 6, seed=1)
    np.testing.assert_allclose(placed(x).numpy(), x.double().numpy() @ stack, atol=1e-5)
    product = next(node for node in placed.module.graph.nodes if node.name == "matmul")
    assert product.args[1].meta["val"].shape == (2, 6, 3)
    permuted = product.args[1].args[0]
    assert permuted.meta["val"].shape == (2, 3, 6)
    assert permuted.args[0].target in FAKE_QUANTIZE
    assert placed.module.get_parameter("stack").shape == (18, 2)
    assert torch.equal(program.module.stack, Stack().stack)  # the one that was given stays


def test_groups_along_the_last_axis_need_no_permutation():
    program = capture(Stack(), seeded(2, 5, 6))
    place = WeightPlace(name_of(program, "stack"), 0, CHANNELS, group=3, inputs=2)
    placed = insert(program, weights=[place])
    stack = by_groups(program.module.stack.detach().double().numpy(), 3, 2)
    x = seeded(2, 5, 6, seed=1)
    np.testing.assert_allclose(placed(x).numpy(), x.double().numpy() @ stack, atol=1e-5)
    assert torch.ops.aten.permute.default not in {node.target for node in placed.module.graph.nodes}
