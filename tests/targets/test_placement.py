import dataclasses
import functools

import pytest
import torch
from networks import (
    ADDS_INSIDE,
    ROUNDS_FIRST,
    Function,
    Residual,
    dynamic,
    images,
    options,
    randomized,
    static,
)
from torch import nn

from zeropoint import engines
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE
from zeropoint.graph.program import load
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.scheme import Scheme
from zeropoint.passes.fold import fold_affine
from zeropoint.targets.placement import Edge, place_dynamic, place_static


def module_of(model, x=None, no_fuse=()):
    return fold_affine(capture(randomized(model), images() if x is None else x), no_fuse).module


def edges(module, target=ADDS_INSIDE, place=place_static, **chosen):
    return {(edge.source, edge.user) for edge in place(module, target, options(**chosen)).edges}


def weights(module, target=ADDS_INSIDE, place=place_static, **chosen):
    names = {node.name: node.target for node in module.graph.nodes}
    return {(names[weight.node], weight.axis) for weight in place(module, target, options(**chosen)).weights}


def chain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))


@functools.cache
def chain_module():
    return module_of(chain())


@functools.cache
def residual_module():
    return module_of(Residual())


def test_conv_relu_conv():
    module = chain_module()
    assert edges(module) == {("input_1", "conv2d"), ("relu", "conv2d_1")}
    assert edges(module, ROUNDS_FIRST) == {("input_1", "conv2d"), ("relu", "conv2d_1")}
    assert weights(module) == {("0.weight", 0), ("2.weight", 0)}


def test_residual_addition_pooling_and_flatten():
    module = residual_module()
    into = {("x", "conv2d"), ("relu_", "conv2d_1")}
    shortcut = {("relu_", "add")}
    moved = {("relu", "max_pool2d"), ("flatten", "linear")}  # the head and the end of pooling and flattening
    assert edges(module) == into | shortcut | moved
    # An engine that rounds first has a quantizer on the convolution's side, too.
    assert edges(module, ROUNDS_FIRST) == into | shortcut | moved | {("conv2d_1", "add")}


def test_the_last_addition_of_a_network_is_read_through_a_mean():
    function = lambda parts, x: parts[1](parts[2](torch.relu(x + parts[0](x))).flatten(1))  # noqa: E731
    parts = nn.Conv2d(3, 3, 1), nn.Linear(3, 2), nn.AdaptiveAvgPool2d(1)
    module = module_of(Function(function, *parts))
    into = {("x", "conv2d"), ("x", "add"), ("adaptive_avg_pool2d", "flatten"), ("flatten", "linear")}
    inside = dataclasses.replace(ADDS_INSIDE, inputs=frozenset({"add"}))  # and no means
    assert edges(module, inside) == into
    first = dataclasses.replace(ROUNDS_FIRST, inputs=frozenset({"add"}))
    assert edges(module, first) == into | {("conv2d", "add")}
    pools = dataclasses.replace(first, pools_sums=True)
    assert edges(module, pools) == into | {("conv2d", "add"), ("relu", "adaptive_avg_pool2d")}
    assert edges(module, pools, skip=("parts.2",)) == into | {("conv2d", "add")}


def test_an_addition_is_not_done_inside_a_layer_that_stays_float():
    function = lambda parts, x: parts[1](x + parts[0](x))  # noqa: E731
    module = module_of(Function(function, nn.ConvTranspose2d(3, 3, 1), nn.Conv2d(3, 2, 1)))
    assert edges(module) == {("x", "conv_transpose2d"), ("x", "add"), ("add", "conv2d")}
    without = dataclasses.replace(ADDS_INSIDE, weighted=frozenset({"conv"}))
    assert edges(module, without) == {("x", "add"), ("conv_transpose2d", "add"), ("add", "conv2d")}


class Blocks(nn.Module):
    """Two residual blocks, and behind each sum what ``between`` makes of it, down to a convolution."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.between = between

    def forward(self, x):
        x = x + self.first(x)
        return self.last(self.between(x + nn.functional.elu(self.second(x))))


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.ReLU(),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        nn.AvgPool2d(2),
        Function(lambda _, x: x + x.transpose(2, 3)),
    ],
)
def test_sums_that_a_convolution_reads_are_of_integers(between):
    module = module_of(Blocks(between))
    assert {("x", "add"), ("add", "add_1"), ("elu", "add_1")} < edges(module)


@pytest.mark.parametrize("between", [nn.GroupNorm(1, 3), nn.GELU(), nn.Softmax(1)])
def test_a_sum_that_only_float_operators_read_is_of_floats(between):
    found = edges(module_of(Blocks(between)))
    assert {("x", "add")} < found  # a convolution reads this one
    assert not {user for _, user in found} & {"add_1"}


def test_a_sum_that_only_layers_of_integer_weights_make_and_read_is_of_floats():
    """Rounding each step of a normalizing flow so left 10 dB of 50."""
    weights_alone = dataclasses.replace(ADDS_INSIDE, weights_alone=frozenset({"linear"}))
    flow = Function(lambda parts, x: parts[1](x * 2 + parts[0](x)), nn.Linear(8, 8), nn.Linear(8, 8))
    assert not edges(module_of(flow, torch.randn(2, 8)), weights_alone)
    assert ("mul", "add") in edges(module_of(flow, torch.randn(2, 8)))
    network = Function(lambda p, x: p[1]((x * 2 + p[0](x)).mean((2, 3))), nn.Conv2d(3, 3, 1), nn.Linear(3, 2))
    assert ("mul", "add") in edges(module_of(network), weights_alone)  # a convolution makes this one


@pytest.mark.parametrize("head", ["norm", "mean over tokens"])
def test_the_stream_of_a_transformer_is_of_floats(head):
    """Where its norms come first, only further sums and layer norms read it, and perhaps a mean."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    if head == "norm":
        model = nn.Sequential(layer, nn.LayerNorm(8), nn.Linear(8, 3))
    else:
        model = Function(lambda parts, x: parts[1](parts[0](x).mean(1)), layer, nn.Linear(8, 3))
    module = module_of(model, torch.randn(2, 5, 8))
    for target in ("openvino", "onnxruntime", "torch"):
        found = edges(module, engines.target(target, "vnni"))
        assert not [edge for edge in found if edge[1].startswith("add")]
        read = {"layer_norm_1", "layer_norm_2" if head == "norm" else "mean"}  # by linear layers
        assert {source for source, _ in found} >= read


@pytest.mark.parametrize("pool", ["mean", "avg_pool"])
def test_onnxruntime_pools_from_integers_to_integers(pool):
    pooling = {
        "mean": lambda x: x.mean((2, 3), keepdim=True),
        "avg_pool": lambda x: nn.functional.adaptive_avg_pool2d(x, 1),
    }[pool]
    # A hard-swish on either side: without this rule there would be no quantizer around the pooling.
    function = lambda parts, x: nn.functional.hardswish(pooling(nn.functional.hardswish(parts[0](x))))  # noqa: E731
    module = module_of(Function(function, nn.Conv2d(3, 4, 1)))
    node = {"mean": "mean", "avg_pool": "adaptive_avg_pool2d"}[pool]
    around = {("hardswish", node), (node, "hardswish_1")}
    assert around < edges(module, engines.target("onnxruntime"))
    assert not around & edges(module, engines.target("openvino"))


def test_products_have_a_scheme_of_their_own():
    """Softmax's outputs and what layers read as well are unsigned; what only products read is signed."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.v = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, a):
            weights = torch.softmax(self.q(a) @ a.transpose(1, 2), -1)
            return weights @ self.v(a)

    module = module_of(Shared(), torch.randn(2, 3, 4))
    target = engines.target("openvino", "vnni")
    placement = place_static(module, target, options())
    schemes = {edge.source: edge.scheme for edge in placement.edges}
    signed = {source for source, scheme in schemes.items() if scheme.signed}
    assert {"linear", "linear_1"} <= signed
    assert not signed & {"a", "softmax"}
    assert all(schemes[source].symmetric for source in signed)
    four = place_static(module, target, options(activation_bits=4))
    bits = {(edge.source, edge.user): edge.scheme.bits for edge in four.edges}
    assert {pair for pair, count in bits.items() if count == 8} == {("a", "linear"), ("a", "linear_1")}
    # The moved input is on the grid of the input itself, which a linear layer reads unsigned.
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    quantized = static(capture(randomized(Shared()), x), target, [x], options())
    grids = {q.source.name: (q.scheme, q.scale) for q in quantizers(quantized.module) if not q.is_weight}
    assert grids["transpose"] == grids["a"]
    assert not grids["a"][0].signed


def test_sources_are_named_once():
    placement = place_static(residual_module(), ADDS_INSIDE, options())
    assert placement.sources == ["flatten", "relu", "relu_", "x"]
    assert Edge("relu_", "add", ADDS_INSIDE.activations) in placement.edges


def test_one_quantizer_for_all_users_of_a_value():
    program = capture(randomized(Residual()), images())
    quantized = static(program, ADDS_INSIDE, [images()], options())
    nodes = [node for node in quantized.module.graph.nodes if node.target in FAKE_QUANTIZE]
    activations = [node for node in nodes if node.args[0].op != "get_attr"]
    assert [node.args[0].name for node in activations] == ["x", "relu_", "relu", "flatten"]
    assert {user.name for user in activations[1].users} == {"conv2d_1", "add"}
    assert {user.name for user in activations[2].users} == {"max_pool2d"}  # pooled and flattened as integers
    assert activations[3].args[1:] == activations[2].args[1:]  # on the same grid, so it changes nothing


def test_concatenation():
    def function(parts, x):
        return parts[2](torch.cat([torch.relu(parts[0](x)), parts[1](x)], 1))

    module = module_of(Function(function, nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 2, 1)))
    inside = {("x", "conv2d"), ("x", "conv2d_1"), ("relu", "cat"), ("conv2d_1", "cat"), ("cat", "conv2d_2")}
    assert edges(module) == inside


def test_addition_of_a_constant_or_integers_is_left_alone():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x):
            return (x + 1.0) + self.shift + (x > 0).sum()

    assert edges(module_of(Shifted())) == set()


def test_depthwise_transposed_and_sequences():
    depthwise = module_of(nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)))
    assert weights(depthwise) == {("0.weight", 0)}
    transposed = module_of(nn.Sequential(nn.ConvTranspose2d(3, 4, 3)))
    assert weights(transposed) == {("0.weight", 1)}
    assert weights(transposed, ROUNDS_FIRST) == set()
    sequence = module_of(nn.Sequential(nn.Linear(4, 5)), torch.randn(2, 3, 4))
    assert edges(sequence) == {("input_1", "linear")}
    assert weights(sequence) == {("0.weight", 0)}


def test_matrix_product_with_a_weight_and_without():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.stack = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(2, 5, 3))
            self.vector = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return ((x @ self.weight) @ self.stack) @ self.vector + (x @ x.transpose(1, 2)).sum(2)

    module = module_of(Products(), torch.randn(2, 3, 4))
    # (5, 4), as of a linear layer; the stack has a scale for each row of outputs, and a float input.
    assert weights(module) == {("weight", 0), ("stack", 0)}
    assert edges(module) == {("x", "matmul")}


@pytest.mark.parametrize("place", [place_static, place_dynamic])
def test_a_table_gets_a_scale_for_each_row_and_eight_bits(place):
    module = module_of(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)), torch.tensor([[1, 2]]))
    assert edges(module, place=place) == {("embedding", "linear")}
    assert weights(module, place=place) == {("0.weight", 0), ("1.weight", 0)}
    for given, bits in ({}, 8), ({"end_bits": 4}, 4):
        placement = place(module, ADDS_INSIDE, options(weight_bits=2, **given))
        (table,) = (one for one in placement.weights if one.node == "_0_weight")
        assert table.scheme == Scheme(bits, granularity="per-channel")
    skipped = place(module, ADDS_INSIDE, options(skip=("0",)))
    assert {one.node for one in skipped.weights} == {"_1_weight"}


def test_dynamic_leaves_convolutions():
    module = residual_module()
    assert edges(module, place=place_dynamic) == {("flatten", "linear")}
    assert weights(module, place=place_dynamic) == {("head.weight", 0)}


def test_dynamic_recurrent_weights():
    module = module_of(nn.LSTM(4, 5, batch_first=True), torch.randn(2, 3, 4))
    assert edges(module, place=place_dynamic) == set()
    assert weights(module, place=place_dynamic) == {("weight_ih_l0", 0), ("weight_hh_l0", 0)}


@pytest.mark.parametrize("pattern", ["inner", "inn*", "i????"])
def test_skip(pattern):
    module = residual_module()
    assert weights(module, skip=(pattern,)) == {("stem.weight", 0), ("head.weight", 0)}
    # The sum is still wanted in integers; the float layer's side of it now needs a quantizer.
    expected = {
        ("x", "conv2d"),
        ("relu_", "add"),
        ("conv2d_1", "add"),
        ("relu", "max_pool2d"),
        ("flatten", "linear"),
    }
    assert edges(module, skip=(pattern,)) == expected


def test_skip_by_parent():
    assert weights(chain_module(), skip=("0",)) == {("2.weight", 0)}
    nested = module_of(Function(lambda parts, x: parts[1](parts[0](x)), chain(), nn.Conv2d(4, 2, 1)))
    assert weights(nested, skip=("parts.0",)) == {("parts.1.weight", 0)}
    assert weights(nested, skip=("*",)) == set()
    assert edges(nested, skip=("*",)) == set()


@pytest.mark.parametrize("pattern", ["0", "1"])
@pytest.mark.parametrize("target", [ADDS_INSIDE, ROUNDS_FIRST])
def test_no_fuse_of_an_activation_puts_a_quantizer_before_it(target, pattern):
    expected = {("input_1", "conv2d"), ("conv2d", "relu"), ("relu", "conv2d_1")}
    assert edges(chain_module(), target, no_fuse=(pattern,)) == expected


@pytest.mark.parametrize("pattern", ["0", "1"])
def test_no_fuse_of_a_batch_norm_gives_each_layer_a_quantizer(pattern):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    module = module_of(model, no_fuse=(pattern,))
    expected = {("input_1", "conv2d"), ("conv2d", "batch_norm"), ("batch_norm", "relu")}
    assert edges(module, no_fuse=(pattern,)) == expected


def test_a_lone_batch_norm_needs_no_quantizer():
    module = module_of(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)))
    assert edges(module) == {("relu", "conv2d")}


@pytest.mark.parametrize("option", ["skip", "no_fuse"])
def test_a_pattern_that_matches_nothing(option):
    program = capture(randomized(Residual()), images())
    chosen = options(**{option: ("iner",)})
    with pytest.raises(InputError, match=r"'iner' matches no module.*did you mean inner"):
        static(program, ADDS_INSIDE, [images()], chosen)
    with pytest.raises(InputError, match="'iner' matches no module"):
        dynamic(program, ADDS_INSIDE, chosen)
    static(program, ADDS_INSIDE, [images()], options(**{option: ("norm",)}))  # it is there until it is folded


def test_schemes_are_the_targets_with_what_the_user_chose():
    module = chain_module()
    placement = place_static(module, ADDS_INSIDE, options(weight_bits=4, activation_symmetric=True))
    assert {(place.scheme.bits, place.scheme.granularity) for place in placement.weights} == {
        (4, "per-channel")
    }
    assert {(edge.scheme.bits, edge.scheme.symmetric) for edge in placement.edges} == {(8, True)}
    assert placement == place_static(module, ADDS_INSIDE, options(weight_bits=4, activation_symmetric=True))


def test_a_parameter_that_enters_through_moves(tmp_path):
    """A class token, expanded and put before the sequence, as vision transformers do."""

    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.head = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))

    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    program = capture(randomized(Token()), x)
    quantized = static(program, ADDS_INSIDE, [x], options())
    torch.testing.assert_close(quantized(x), program(x), rtol=0.05, atol=0.05)
    quantized.save(tmp_path / "a.pt2")
    assert torch.equal(load(tmp_path / "a.pt2")(x), quantized(x))


class Shuffled(nn.Module):
    """Two branches joined, shuffled and split again, as in ShuffleNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = torch.cat([self.left(x), self.right(x)], 1)
        kept, worked = y.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2).chunk(2, 1)
        return torch.cat([kept, self.last(worked)], 1)


def test_concatenations_that_follow_on_each_other_share_one_grid():
    program = capture(Shuffled().eval(), torch.randn(2, 3, 8, 8))
    calibration = [torch.randn(4, 3, 8, 8)]
    quantized = static(program, engines.target("openvino"), calibration, options())
    activations = {q.source.name: q for q in quantizers(quantized.module) if not q.is_weight}
    grids = {(float(q.scale), int(q.zero_point)) for name, q in activations.items() if name != "x"}
    assert len(activations) > 4
    assert len(grids) == 1


def test_a_part_of_what_stays_float_is_quantized_by_itself():
    module = fold_affine(capture(Shuffled().eval(), torch.randn(2, 3, 8, 8))).module
    placement = place_static(module, engines.target("onnxruntime"), options())
    assert "cat" not in placement.sources
    assert any(source.startswith("getitem") for source in placement.sources)


class Halves(nn.Module):
    """What a convolution made, split between another one and a second reader."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 2, 1), other

    def forward(self, x):
        a, b = self.first(x).relu().split([2, 2], 1)
        return self.one(a), self.other(b)


@pytest.mark.parametrize(("other", "whole"), [(nn.Conv2d(2, 5, 1), True), (nn.Softmax(1), False)])
def test_what_is_split_is_quantized_whole_where_all_parts_are_read_in_integers(other, whole):
    module = capture(Halves(other).eval(), torch.randn(2, 3, 8, 8)).module
    placement = place_static(module, engines.target("openvino"), options())
    assert ("relu" in placement.sources) == whole


@pytest.mark.parametrize(
    ("chosen", "first", "inner", "last"),
    [
        ({"weight_bits": 4, "activation_bits": 8}, (4, 8), (4, 8), (4, 8)),
        ({"weight_bits": 2, "activation_bits": 4}, (8, 8), (2, 4), (8, 8)),
        ({"weight_bits": 4, "activation_bits": 4, "end_bits": 4}, (4, 4), (4, 4), (4, 4)),
        ({"weight_bits": 4, "activation_bits": 6, "end_bits": 7}, (7, 7), (4, 6), (7, 7)),
    ],
)
def test_the_first_and_last_layer_keep_more_bits(chosen, first, inner, last):
    placement = place_static(residual_module(), ADDS_INSIDE, options(**chosen))
    weights = {place.node.split("_")[0]: place.scheme.bits for place in placement.weights}
    inputs = {(edge.source, edge.user): edge.scheme.bits for edge in placement.edges}
    assert (weights["stem"], inputs["x", "conv2d"]) == first
    assert (weights["inner"], inputs["relu_", "conv2d_1"]) == inner
    assert (weights["head"], inputs["flatten", "linear"]) == last
    assert inputs["relu", "max_pool2d"] == last[1]  # on the grid that it is read on
    assert inputs["relu_", "add"] == 8  # nothing is multiplied there


class Joined(nn.Module):
    """Two layers whose outputs are joined, and may be read by a third one; (N, 3, 8, 8) to (N, C, 8, 8)."""

    def __init__(self, is_read: bool) -> None:
        super().__init__()
        self.boxes, self.scores = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1)
        self.last = nn.Conv2d(6, 2, 1) if is_read else nn.Identity()

    def forward(self, x):
        """The outputs."""
        return self.last(torch.cat([self.boxes(x), self.scores(x).sigmoid()], 1))


def test_what_is_joined_at_the_outputs_stays_float():
    for is_read in (True, False):
        found = edges(module_of(Joined(is_read)))
        assert {user for _, user in found if user == "cat"} == ({"cat"} if is_read else set())
