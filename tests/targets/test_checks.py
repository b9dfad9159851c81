"""What the rules of placement decide at a node, and the reason that they give, rule by rule."""

import dataclasses
import functools

import pytest
import torch
from networks import ADDS_INSIDE, ROUNDS_FIRST, Function, Residual, images, options, randomized
from torch import Tensor, nn
from torch.fx import GraphModule

from zeropoint.graph.capture import capture
from zeropoint.numerics.scheme import Scheme
from zeropoint.passes.fold import fold_affine
from zeropoint.targets.placement import (
    Placement,
    first_and_last,
    place_dynamic,
    place_static,
    place_weights,
    shared_grids,
)
from zeropoint.targets.recipe import Row
from zeropoint.targets.rules import OPTIONAL
from zeropoint.targets.target import Target

SIDE = "convolution's side of a sum"
LINEAR = nn.Linear(4, 3)
CUTS = dataclasses.replace(ROUNDS_FIRST, cuts_before_adding=True)


@functools.cache
def captured(model: nn.Module, shape: tuple[int, ...], kind: torch.dtype) -> GraphModule:
    return fold_affine(capture(randomized(model), torch.ones(shape, dtype=kind))).module


def placed(
    model: nn.Module, x: Tensor | None = None, target: Target = ADDS_INSIDE, **chosen: object
) -> Placement:
    """What is quantized of a model for a target; it is captured once for all of them."""
    x = images() if x is None else x
    module = captured(model, tuple(x.shape), x.dtype)
    return place_static(module, target, options(processor=target.processor, **chosen))


def reasons(placement: Placement, rule: str) -> dict[str, str | None]:
    return {one.node: one.reason for one in placement.decisions if one.rule == rule}


def schemes(placement: Placement) -> dict[tuple[str, str], Scheme]:
    return {(edge.source, edge.user): edge.scheme for edge in placement.edges}


def sums(after, parts=()) -> nn.Module:
    """What a convolution makes of the input, added to the input, and what ``after`` makes of that."""
    return Function(lambda own, x: after(own[1:], x + own[0](x)), nn.Conv2d(3, 3, 1), *parts)


def test_what_an_engine_runs():
    model = Function(lambda parts, x: parts[0](x) + x.sum(1, keepdim=True) * 2, nn.Conv3d(3, 2, 1))
    found = placed(model, torch.ones(2, 3, 2, 2, 2), dataclasses.replace(ADDS_INSIDE, inputs=frozenset()))
    assert reasons(found, "weight of a layer") == {
        "conv3d": "the rules of inside run no 'conv3d' in integers"
    }
    refused = "no weights, and the rules of inside run no 'add' in integers"
    assert reasons(found, "residual sum") == {"add": refused}
    assert not found.edges
    assert not found.weights


def test_weights_in_groups_take_float_inputs():
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Flatten(), nn.Linear(64, 4))
    found = placed(model, torch.ones(2, 3, 1, 1), weight_granularity="per-group")
    told = reasons(found, "input of a layer")
    assert told["conv2d"] is None
    assert told["linear"] == (
        "its inputs: no engine takes integers there to weights with a scale for each group"
    )
    assert {place.group for place in found.weights} == {None, 32}
    assert schemes(found).keys() == {("input_1", "conv2d")}


def test_inputs_that_gain_nothing_stay_float_but_at_the_bits_that_are_asked_for():
    target = dataclasses.replace(ADDS_INSIDE, weights_alone=frozenset({"linear"}), processor="avx2")
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(12, 3))
    found = placed(model, torch.ones(2, 3, 2, 2), target)
    told = reasons(found, "input of a layer")
    assert told["linear"] == "its inputs: inside is no faster with integers there on avx2"
    assert told["conv2d"] is None
    assert len(found.weights) == 2
    found = placed(model, torch.ones(2, 3, 2, 2), target, activation_bits=4, end_bits=4)
    assert reasons(found, "input of a layer")["linear"] is None
    found = placed(model, torch.ones(2, 3, 2, 2), target, activation16=("2",))
    assert reasons(found, "input of a layer")["linear"] is None


PATCHES = nn.Conv2d(3, 8, 4, stride=4)
# 8 * 2 * 2 outputs of 3 * 4 * 4 inputs each; 3 * 8 * 8 values are read, and the outputs written.
INTENSITY = 8 * 2 * 2 * 48 / (192 + 32)
FAST = dataclasses.replace(ADDS_INSIDE, least_intensity=INTENSITY + 0.01)


def tokens(first, x: Tensor) -> Tensor:
    return first(x).flatten(2).transpose(1, 2)


def normalized(*extra: nn.Module, between=lambda x, _: x) -> nn.Module:
    """Patches of an image as tokens, ``between`` them and a norm something, and a linear layer at the end."""

    def run(parts, x: Tensor) -> Tensor:
        return parts[2](parts[1](between(tokens(parts[0], x), parts[3:])))

    return Function(run, PATCHES, nn.LayerNorm(8), nn.Linear(8, 3), *extra)


@pytest.mark.parametrize(
    "between",
    [lambda x, _: x, lambda x, _: x + torch.ones(4, 8), lambda x, _: torch.cat([x[:, :1], x], 1)],
    ids=["moved", "with positions", "with a token"],
)
def test_patches_of_an_input_stay_float_where_that_is_as_fast(between):
    model, x = normalized(between=between), torch.ones(2, 3, 8, 8)
    told = "inside is as fast in float there: it does few products for each value that it reads or writes"
    for rule in ("weight of a layer", "input of a layer"):
        assert reasons(placed(model, x, FAST), rule) == {"conv2d": told, "linear": None}
        assert set(reasons(placed(model, x), rule).values()) == {None}
    slower = dataclasses.replace(FAST, least_intensity=INTENSITY - 0.01)
    assert reasons(placed(model, x, slower), "weight of a layer") == {"conv2d": None, "linear": None}


@pytest.mark.parametrize(
    "chosen",
    [
        {"end_bits": 8},
        {"recipe": (Row("parts.0", weight_bits=8),)},
        {"recipe": (Row("*", activation_bits=8),)},
    ],
)
def test_patches_are_integers_where_the_user_gives_them_bits(chosen):
    found = placed(normalized(), torch.ones(2, 3, 8, 8), FAST, **chosen)
    assert reasons(found, "input of a layer") == {"conv2d": None, "linear": None}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        normalized(nn.Linear(8, 8), between=lambda x, parts: x + parts[0](x)),
        nn.Sequential(nn.AvgPool2d(1), nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), nn.LayerNorm(4)),
    ],
    ids=["read by a layer", "read by a layer, too", "of no input"],
)
def test_other_convolutions_are_integers(model: nn.Module):
    assert set(reasons(placed(model, torch.ones(2, 3, 8, 8), FAST), "weight of a layer").values()) == {None}


def test_weights_alone_are_integers_where_floats_are_as_fast():
    module = captured(normalized(), (2, 3, 8, 8), torch.float32)
    found = place_weights(module, FAST, options(processor=FAST.processor))
    assert len(found.weights) == 2


def test_outputs_that_an_engine_wants_quantized():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.GELU(), nn.Flatten(), nn.Linear(12, 3), nn.GELU())
    x = torch.ones(2, 3, 2, 2)
    found = placed(model, x, ROUNDS_FIRST)
    rule = "output of a layer"
    assert reasons(found, rule) == {"conv2d": None, "linear": "first needs no quantized output there"}
    assert ("relu", "gelu") in schemes(found)
    apart = placed(model, x, ROUNDS_FIRST, no_fuse=("1",))
    assert reasons(apart, rule)["conv2d"] == "kept apart by --no-fuse"
    assert reasons(apart, "layer kept apart") == {"conv2d": None, "linear": "not asked for by --no-fuse"}
    other = placed(model, x, dataclasses.replace(ROUNDS_FIRST, weighted=frozenset({"linear"})))
    assert reasons(other, rule)["conv2d"] == reasons(other, "layer kept apart")["conv2d"]
    assert reasons(other, rule)["conv2d"] == "the rules of first run no 'conv' in integers"


def test_sums_of_integers_and_their_sides():
    last = nn.Conv2d(3, 2, 1)
    model = sums(lambda parts, x: parts[0](x), [last])
    assert reasons(placed(model), "residual sum") == {"add": None}
    assert reasons(placed(model), SIDE) == {
        "add": "one side comes in full precision from the layer that the addition is done in"
    }
    assert reasons(placed(model, target=ROUNDS_FIRST), SIDE) == {"add": None}
    unread = placed(sums(lambda _, x: x.softmax(1)), target=ROUNDS_FIRST)
    refused = "no integer operator reads the sum, or one side is a constant"
    assert reasons(unread, "residual sum") == reasons(unread, SIDE) == {"add": refused}
    plain = Function(lambda parts, x: parts[0](x * 2 + x * 3), last)
    assert reasons(placed(plain), SIDE) == {"add": "no side comes from a layer that the addition is done in"}
    constant = Function(
        lambda parts, x: parts[1](parts[0](x) + torch.ones(1, 3, 8, 8)), nn.Conv2d(3, 3, 1), last
    )
    assert reasons(placed(constant), "residual sum") == {"add": refused}


def test_the_side_of_a_sum_that_another_reads_is_not_made_inside_of_it():
    last = nn.Conv2d(3, 2, 1)

    def both(parts, x):
        y = parts[0](x)
        return parts[1](x + y) + parts[1](y)

    found = placed(Function(both, nn.Conv2d(3, 3, 1), last))
    assert reasons(found, SIDE)["add"] == "no side comes from a layer that the addition is done in"
    assert ("conv2d", "add") in schemes(found)
    apart = placed(sums(lambda parts, x: parts[0](x), [last]), no_fuse=("parts.0",))
    assert ("conv2d", "add") in schemes(apart)


@pytest.mark.parametrize(
    ("after", "target", "reason"),
    [
        (lambda parts, x: parts[0](x), CUTS, None),
        (lambda parts, x: parts[0](torch.relu(x)), CUTS, None),
        (lambda parts, x: parts[0](torch.relu(x)), ROUNDS_FIRST, "first rounds there"),
        (lambda parts, x: parts[0](x) + x.exp()[:, :2], CUTS, "not every reader of the sum takes integers"),
        (
            lambda parts, x: parts[0](torch.relu(x)) + torch.relu(x).exp()[:, :2],
            CUTS,
            "not every reader of the sum takes integers",
        ),
        (lambda parts, x: torch.relu(x).softmax(1), CUTS, "no integer operator reads the sum"),
    ],
    ids=["a layer", "a ReLU", "another engine", "the sum read as float", "two ReLUs", "no integers"],
)
def test_the_side_of_a_sum_is_cut_where_its_readers_take_integers(after, target: Target, reason: str | None):
    found = placed(sums(after, [nn.Conv2d(3, 2, 1)]), target=target)
    told = reasons(found, "convolution's side of a sum, cut")["add"]
    assert told is None if reason is None else (told or "").startswith(reason)
    bits = {pair: scheme.bits for pair, scheme in schemes(found).items()}
    assert bits["conv2d", "add"] == (16 if reason is None else 8)
    assert bits.get(("x", "add"), 8) == 8


def test_a_sum_that_a_relu_and_another_read_is_pooled_as_it_is():
    pools = dataclasses.replace(ADDS_INSIDE, inputs=frozenset({"add"}), pools_sums=True)
    model = sums(
        lambda parts, x: parts[0](torch.relu(x).mean((2, 3))) + parts[0](x.mean((2, 3))), [nn.Linear(3, 2)]
    )
    found = schemes(placed(model, target=pools))
    assert {pair for pair in found if pair[1].startswith("mean")} == {("add", "mean_1")}
    model = sums(lambda parts, x: parts[0](torch.relu(x).mean((2, 3))), [nn.Linear(3, 2)])
    assert ("relu", "mean") in schemes(placed(model, target=pools))
    found = placed(model, target=dataclasses.replace(pools, pools_sums=False))
    assert reasons(found, "last sum, pooled") == {"add": "no gain on this engine"}


def test_a_maximum_over_axes_among_integers():
    model = Function(lambda parts, x: parts[1](parts[0](x).amax((2, 3))), nn.Conv2d(3, 4, 1), nn.Linear(4, 2))
    target = dataclasses.replace(ADDS_INSIDE, quantizes_extremes=True, inputs=frozenset({"amax"}))
    rule = "maximum or minimum over axes"
    found = placed(model, target=target)
    assert reasons(found, rule) == {"amax": None}
    assert schemes(found)["conv2d", "amax"].bits == 8
    assert reasons(placed(model), rule) == {"amax": "inside needs no quantizer there"}
    unread = Function(lambda parts, x: parts[0](x).amax((2, 3)), nn.Conv2d(3, 4, 1))
    assert reasons(placed(unread, target=target), rule) == {"amax": "no integer operator reads it"}
    alone = dataclasses.replace(target, weights_alone=frozenset({"linear"}))
    assert reasons(placed(model, target=alone), rule) == {"amax": "no integer operator reads it"}


def test_concatenations_and_products_of_computed_tensors():
    conv = nn.Conv2d(3, 3, 1)
    target = dataclasses.replace(ADDS_INSIDE, weights_alone=frozenset({"linear"}))
    before_linear = Function(
        lambda parts, x: parts[1](torch.cat([parts[0](x), x], 1).flatten(1)), conv, nn.Linear(6 * 64, 2)
    )
    told = reasons(placed(before_linear, target=target), "concatenation")
    assert told == {"cat": "no integer operator reads what is joined"}
    assert reasons(placed(before_linear), "concatenation") == {"cat": None}
    inputs = dataclasses.replace(ADDS_INSIDE, inputs=frozenset({"product"}))
    attention = Function(lambda parts, x: (x @ x.transpose(1, 2)).softmax(-1) @ (x * 2))
    found = placed(attention, torch.ones(2, 3, 4), inputs)
    assert set(reasons(found, "softmax in attention").values()) == {None}
    assert schemes(found)["softmax", "matmul_1"] == inputs.activations
    assert schemes(found)["mul", "matmul_1"] == inputs.products
    assert schemes(found)["x", "matmul"] == inputs.products
    stack = Function(lambda _, x: x @ torch.ones(2, 4, 5))
    told = reasons(placed(stack, torch.ones(2, 3, 4), inputs), "factor in attention")
    assert told == {"matmul": "one side is a constant"}


def test_a_factor_that_layers_read_too_is_on_their_grid():
    inputs = dataclasses.replace(ADDS_INSIDE, inputs=frozenset({"product"}))
    model = Function(lambda parts, x: parts[0](x) @ x.transpose(1, 2), nn.Linear(4, 4))
    found = schemes(placed(model, torch.ones(2, 3, 4), inputs))
    assert found["transpose", "matmul"] == inputs.activations
    assert found["linear", "matmul"] == inputs.products


class Tied(nn.Module):
    """A table that embeds tokens, and in which they are looked up by their values at the end."""

    def __init__(self, is_tied: bool) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        if is_tied:
            self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens))


def test_tables_that_only_embeddings_read():
    tokens, rule = torch.tensor([[1, 2]]), "embedding table"
    apart = Tied(False)
    assert reasons(placed(apart, tokens), rule) == {"embedding": None}
    found = placed(Tied(True), tokens)
    assert reasons(found, rule) == {"embedding": "its table is computed, or read by another operator"}
    assert len(found.weights) == 1  # of the head
    told = reasons(placed(apart, tokens, skip=("table",)), rule)["embedding"]
    assert told == "skipped by the user ('table')"

    class Computed(Tied):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(nn.functional.embedding(tokens, self.table.weight * tokens.sum()))

    assert reasons(placed(Computed(False), tokens), rule) == {
        "embedding": "its table is computed, or read by another operator"
    }

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Embedding(7, 4), nn.Embedding(7, 4)
            self.other.weight = self.one.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.one(tokens) + self.other(tokens)

    two = Two()
    told = reasons(placed(two, tokens, skip=("other",)), rule)
    assert told["embedding"] == "its table is read by a layer that is skipped"
    assert set(reasons(placed(two, tokens), rule).values()) == {None}


@pytest.mark.parametrize(
    ("processor", "chosen", "bits"),
    [
        ("avx2", {"weight_symmetric": False}, 7),
        ("avx2", {"weight_symmetric": False, "weight_bits": 4}, 4),
        ("avx2", {}, 8),
        ("vnni", {"weight_symmetric": False}, 8),
    ],
)
def test_affine_weights_have_seven_bits_where_products_saturate(
    processor: str, chosen: dict[str, object], bits: int
):
    target = dataclasses.replace(ADDS_INSIDE, processor=processor)
    (place,) = placed(LINEAR, torch.ones(2, 4), target, **chosen).weights
    assert place.scheme.bits == bits


def test_what_a_layer_gives_has_the_bits_that_are_asked_for():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 3))
    found = schemes(placed(model, activation16=("0",)))
    assert found["input_1", "conv2d"].bits == 16
    assert found["flatten", "linear"].bits == found["conv2d", "flatten"].bits == 16
    assert found["relu", "linear_1"].bits == 8


def test_of_two_schemes_for_an_edge_that_of_more_bits_holds():
    module = capture(randomized(Residual()), images()).module
    found = schemes(place_static(module, ADDS_INSIDE, options(activation_bits=4, end_bits=4)))
    assert found["relu_", "conv2d_1"].bits == 4
    assert found["relu_", "add"].bits == 8


def test_the_first_and_last_layers():
    class Ends(nn.Module):
        """Two first layers and two last ones, of which one is both; in between there is another one."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d, self.e = (nn.Linear(4, 4) for _ in range(5))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.d(self.c(torch.relu(self.a(x) * 2 + self.b(x)))).exp(), self.e(x)

    module = capture(Ends(), torch.ones(2, 4)).module
    names = {str(node.args[1].target).split(".")[0] for node in first_and_last(module)}
    assert names == {"a", "b", "d", "e"}


def test_grids_that_concatenations_share():
    class Joins(nn.Module):
        def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
            first = torch.cat([a * 2, b * 2], 1)
            second = torch.cat([first, (c * 2).transpose(2, 3).transpose(2, 3)], 1)
            return self.last(second), self.last(torch.cat([d * 2, d * 3, d * 4], 1))

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv2d(3, 1, 1)

    x = torch.ones(2, 1, 2, 2)
    module = capture(Joins(), (x, x, x, x)).module
    placement = place_static(module, ADDS_INSIDE, options())
    found = shared_grids(module, placement)
    one = {found[name] for name in ("mul", "mul_1", "mul_2", "cat", "cat_1")}
    other = {found[name] for name in ("mul_3", "mul_4", "mul_5", "cat_2")}
    assert len(one) == len(other) == 1
    assert one != other
    assert len(found) == 9
    few = dataclasses.replace(
        placement, edges=frozenset(edge for edge in placement.edges if edge.source != "mul_4")
    )
    assert set(shared_grids(module, few)) == {"mul", "mul_1", "mul_2", "cat", "cat_1"}


def test_rules_of_a_method_are_about_its_operators():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(192, 4))
    module = capture(randomized(model), images()).module
    dynamic = place_dynamic(module, ADDS_INSIDE, options())
    assert reasons(dynamic, "convolution")["conv2d"].startswith("dynamic quantization leaves a convolution")
    assert reasons(dynamic, "weight of a layer") == {"linear": None}
    weights = place_weights(module, ADDS_INSIDE, options())
    told = set(reasons(weights, "input of a layer").values())
    assert told == {"its inputs, since weight-only leaves activations float"}
    assert not weights.edges
    assert len(weights.weights) == 2
    tokens = capture(randomized(Tied(False)), torch.tensor([[1, 2]])).module
    for place in (place_static, place_dynamic, place_weights):
        told = reasons(place(tokens, ADDS_INSIDE, options()), "index of an embedding")["embedding"]
        assert told.startswith("an embedding looks up rows of integers")


def test_a_rule_that_refuses_where_all_is_integers_is_optional():
    """What says no there does not explain why a layer stayed float."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(x + self.one(x))
            x = x * torch.sigmoid(nn.functional.elu(self.two(x)) * 2)
            return self.last(nn.functional.avg_pool2d(x, 2).amax((2, 3)))

    target = dataclasses.replace(ROUNDS_FIRST, inputs=frozenset({"add", "avg_pool", "mul", "amax"}))
    found = placed(Whole(), target=target)
    assert len(found.weights) == 3
    assert set(reasons(found, "input of a layer").values()) == {None}
    assert set(reasons(found, "residual sum").values()) == {None}
    refused = {one.rule for one in found.decisions if one.reason is not None}
    assert refused == {
        "output of a sum or concatenation",
        *("layer kept apart", "output of a layer", "last sum, pooled", "output of pooling"),
        *("maximum or minimum over axes", "convolution's side of a sum, cut", "matrices of experts"),
        "product with a sigmoid",
    }
    assert refused <= OPTIONAL
    assert not OPTIONAL & {
        "weight of a layer",
        "input of a layer",
        "residual sum",
        "pooling",
        "concatenation",
    }
