"""Learnable quantizers: rates, gradient factors, shared grids and limits by hand, and the way back."""

import functools
import math

import pytest
import torch
from networks import ADDS_INSIDE, Function, images, options, randomized, residual, round_to_nearest
from torch import Tensor, nn

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE_CHANNEL, FAKE_QUANTIZE_TENSOR
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.learned import fake_quantize_learned
from zeropoint.passes.learnable import (
    LEAST,
    Learnable,
    constant,
    keep_positive,
    keep_within_limits,
    learnable,
    parameter_groups,
)
from zeropoint.targets.saturation import pairings

DATA = [images(8, seed) for seed in range(2)]


def of_activations(places: list[Learnable]) -> dict[str, Learnable]:
    return {place.before.source.name: place for place in places if not place.before.is_weight}


def of_weights(places: list[Learnable]) -> dict[str, Learnable]:
    return {place.before.name: place for place in places if place.before.is_weight}


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def rounded(**chosen: object) -> Program:
    return round_to_nearest(residual(), ADDS_INSIDE, DATA, options(processor="vnni", **chosen))


@pytest.mark.parametrize(
    "chosen", [{}, {"weight_bits": 3, "activation_bits": 5}, {"weight_symmetric": False}]
)
def test_it_computes_what_the_plain_quantizers_do_there_and_back(chosen: dict[str, object]):
    start = rounded(**chosen)
    expected = start(images(4, 7))
    module, places = learnable(start)
    kinds = {node.target for node in module.graph.nodes}
    assert fake_quantize_learned in kinds
    assert not kinds & {FAKE_QUANTIZE_CHANNEL, FAKE_QUANTIZE_TENSOR}
    torch.testing.assert_close(module(images(4, 7)), expected, rtol=1e-4, atol=1e-4)
    constant(module, places)
    torch.testing.assert_close(module(images(4, 7)), expected, rtol=1e-4, atol=1e-4)
    before, after = (
        {(one.source.name, one.scheme, one.axis): one for one in quantizers(of)}
        for of in (start.module, module)
    )
    assert after.keys() == before.keys()
    for place, new in after.items():
        old = before[place]
        torch.testing.assert_close(new.scale, old.scale)
        assert torch.equal(new.zero_point, old.zero_point)
    names = {name for name, _ in start.module.named_parameters()}
    assert {name for name, _ in module.named_parameters()} == names
    for name, value in start.module.named_parameters():
        assert module.get_parameter(name) is not value  # the start keeps its own


def test_weights_count_steps_and_step_sizes_what_they_were():
    start = rounded()
    module, places = learnable(start)
    for place in places:
        assert torch.equal(module.get_parameter(place.scale), torch.ones_like(place.before.scale))
    stem = of_weights(places)["stem.weight"].before
    levels = start.module.get_parameter("stem.weight") / stem.scale.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(module.get_parameter("stem.weight"), levels)
    assert levels.abs().max().item() == pytest.approx(127)


def test_what_was_learned_is_put_back():
    module, places = learnable(rounded())
    activation, weight = of_activations(places)["x"], of_weights(places)["inner.weight"]
    stored = module.get_parameter("inner.weight").detach().clone()
    with torch.no_grad():
        module.get_parameter(activation.scale).fill_(-1.5)  # a step size is as long in either direction
        module.get_parameter(weight.scale).mul_(2)
        module.get_parameter("inner.weight").add_(3)
    constant(module, places)
    found = {one.name: one for one in quantizers(module)}
    by_source = {one.source.name: one for one in found.values() if not one.is_weight}
    old = activation.before
    torch.testing.assert_close(by_source[old.source.name].scale, old.scale * 1.5)
    torch.testing.assert_close(found["inner.weight"].scale, weight.before.scale * 2)
    steps = weight.before.scale.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(module.get_parameter("inner.weight").detach(), (stored + 3) * steps)


def test_rates_by_hand():
    module, places = learnable(rounded())
    weights = {"stem.weight", "inner.weight", "head.weight"}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, places, 0.5, weight_decay=0.125)
    found = {names[id(one)]: group for group in groups for one in group["params"]}
    assert found.keys() == set(names.values())
    for name, group in found.items():
        if name in weights:
            assert (group["lr"], group["weight_decay"]) == (0.5, 0.125)
        elif name.endswith("scale"):
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.05), 0.0)
        else:
            size = float(module.get_parameter(name).detach().abs().mean())
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.5 * 0.03 * size), 0.0)
    assert len(groups) == 2 + sum(name.endswith("bias") for name in found)
    others = parameter_groups(module, places, 0.5, weights=False)
    assert {names[id(one)] for group in others for one in group["params"]} == set(names.values()) - weights
    assert {group["weight_decay"] for group in parameter_groups(module, places, 0.5)} == {0.0}


def test_a_bias_of_zeros_has_a_rate_all_the_same():
    program = capture(nn.Linear(4, 3), seeded(2, 4))
    nn.init.zeros_(program.module.bias)
    module, places = learnable(round_to_nearest(program, ADDS_INSIDE, [seeded(8, 4)], options()))
    rates = {group["lr"] for group in parameter_groups(module, places, 1.0)}
    assert rates == {1.0, 0.1, 1e-12}


def test_zero_points_are_learned_of_affine_activations_with_values_of_both_signs():
    start = rounded()
    zero_points = {
        one.source.name: int(one.zero_point) for one in quantizers(start.module) if not one.is_weight
    }
    assert zero_points["x"] > 0
    assert zero_points["relu_"] == 0
    module, places = learnable(start, offsets=True)
    parameters = dict(module.named_parameters())
    learned = {place.before.source.name for place in places if place.zero_point in parameters}
    assert learned == {"x"}
    offset = parameters[of_activations(places)["x"].zero_point]
    groups = parameter_groups(module, places, 0.5)
    assert [group["lr"] for group in groups if any(one is offset for one in group["params"])] == [0.5]
    plain, places = learnable(start)
    assert not {place.zero_point for place in places} & dict(plain.named_parameters()).keys()
    symmetric, places = learnable(rounded(activation_symmetric=True), offsets=True)
    assert not {place.zero_point for place in places} & dict(symmetric.named_parameters()).keys()
    affine, places = learnable(rounded(weight_symmetric=False), offsets=True)
    assert (
        not {place.zero_point for place in of_weights(places).values()}
        & dict(affine.named_parameters()).keys()
    )


def test_a_learned_zero_point_is_rounded_and_stays_among_the_integers():
    for value, expected in ((90.6, 91), (-3.0, 0), (300.0, 255)):
        module, places = learnable(rounded(), offsets=True)
        with torch.no_grad():
            module.get_parameter(of_activations(places)["x"].zero_point).fill_(value)
        constant(module, places)
        zero_points = [int(one.zero_point) for one in quantizers(module) if one.source.name == "x"]
        assert zero_points == [expected]


def test_gradient_factors_by_hand():
    """1 / sqrt(N Qp), with N the values of an item, or of a channel of a weight, that share a step."""
    _, places = learnable(rounded())
    factors = {name: place.node.args[6] for name, place in of_activations(places).items()}
    assert factors["x"] == pytest.approx(1 / math.sqrt(3 * 8 * 8 * 255))
    assert factors["relu_"] == pytest.approx(1 / math.sqrt(4 * 8 * 8 * 255))
    factors = {name: place.node.args[6] for name, place in of_weights(places).items()}
    assert factors["stem.weight"] == pytest.approx(1 / math.sqrt(3 * 3 * 3 * 127))
    assert factors["head.weight"] == pytest.approx(1 / math.sqrt(64 * 127))
    _, places = learnable(rounded(weight_granularity="per-tensor", weight_bits=4))
    factor = of_weights(places)["inner.weight"].node.args[6]
    assert factor == pytest.approx(1 / math.sqrt(4 * 4 * 3 * 3 * 7))


def test_a_gradient_factor_where_the_batch_size_is_fixed():
    model = randomized(
        Function(lambda parts, x: parts[0](x) + torch.arange(10.0).reshape(5, 2), nn.Linear(6, 2))
    )
    program = capture(model, seeded(5, 6))
    assert not program.dynamic_batch
    _, places = learnable(round_to_nearest(program, ADDS_INSIDE, [seeded(5, 6)], options()))
    factor = of_activations(places)["x"].node.args[6]
    assert factor == pytest.approx(1 / math.sqrt(6 * 255))


def test_only_activations_learn_step_sizes_by_pact():
    _, places = learnable(rounded(), step_sizes="pact")
    assert {place.node.args[7] for place in places if place.before.is_weight} == {"lsq"}
    assert {place.node.args[7] for place in places if not place.before.is_weight} == {"pact"}


def test_quantizers_of_a_value_before_and_after_moves_share_a_grid():
    module, places = learnable(rounded())
    by_source = of_activations(places)
    assert by_source["flatten"].scale == by_source["relu"].scale != by_source["relu_"].scale
    assert by_source["flatten"].node.args[1:3] == by_source["relu"].node.args[1:3]
    names = [name for name, _ in module.named_parameters() if name.endswith("scale")]
    assert len(names) == len({place.scale for place in places}) == len(places) - 1


def test_step_sizes_are_kept_positive():
    module, places = learnable(rounded())
    first, second, *rest = sorted({place.scale for place in places})
    with torch.no_grad():
        module.get_parameter(first).fill_(-2.0)
        module.get_parameter(second).zero_()
    keep_positive(module, places)
    for name in (first, second):
        assert (module.get_parameter(name) == LEAST).all()
    assert all((module.get_parameter(name) == 1).all() for name in rest)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_that_overflow_together_are_put_back(bits: int):
    program = capture(nn.Linear(4, 1), seeded(2, 4))
    with torch.no_grad():
        program.module.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.5]]))
    chosen = options(processor="vnni", weight_bits=bits)
    start = round_to_nearest(program, ADDS_INSIDE, [seeded(8, 4)], chosen)
    module, places = learnable(start)
    paired = pairings(start.module, "avx2")
    weight = module.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(torch.tensor([[240.0, 100.0, -30.0, 20.0]]))
        (scale,) = (place.scale for place in places if place.before.is_weight)
        module.get_parameter(scale).fill_(2.0)  # in its units now 120, 50, -15 and 10
    keep_within_limits(module, places, paired)
    # 170 together is 42 above 128: each gives half of that.
    expected = [240 - 42, 100 - 42, -30, 20] if bits == 8 else [240, 100, -30, 20]
    assert weight.flatten().tolist() == pytest.approx(expected)
    with torch.no_grad():
        weight.copy_(torch.tensor([[240.0, 100.0, -30.0, 20.0]]))
    keep_within_limits(module, places, {})
    assert weight.flatten().tolist() == [240, 100, -30, 20]
