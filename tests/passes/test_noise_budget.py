"""What each activation's quantizer adds to the noise of the outputs, and which of them get eight bits."""

import dataclasses

import pytest
import torch
from networks import sqnr
from torch import nn

import zeropoint as zp
from zeropoint.graph import edits as fx
from zeropoint.graph.operators import FAKE_QUANTIZE
from zeropoint.graph.quantizers import quantizers
from zeropoint.methods import static
from zeropoint.passes import noise_budget
from zeropoint.passes.noise_budget import RULE, noise_of_activations, worth_more_bits
from zeropoint.targets.recipe import Row


class Narrow(nn.Module):
    """A layer of little work whose output needs many levels, between layers of much work."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.narrow = nn.Conv2d(16, 16, 1, groups=16)
        self.wide = nn.Conv2d(16, 64, 3, padding=1)
        self.last = nn.Linear(64, 5)
        # Every channel that enters ``narrow`` lies far from zero, and what tells inputs apart is small.
        self.first.bias.data += 8.0
        self.narrow.bias.data = -self.narrow.weight.data.flatten() * 8.0

    def forward(self, x):
        y = torch.relu(self.narrow(torch.relu(self.first(x))))
        return self.last(torch.relu(self.wide(y)).mean((2, 3)))


def data(count=64):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantized(bits="W8A4", **options):
    network = Narrow().eval()
    chosen = zp.Options(rounding="nearest", processor="vnni", **options).at(bits)
    return network, zp.quantize(zp.capture(network, data(2)), "static", calibration=[data()], options=chosen)


def bits_into(program):
    """Bits of what enters each layer, by its module."""
    return {
        fx.module_name(user): one.scheme.bits
        for one in quantizers(program.module)
        if not one.is_weight
        for user in one.node.users
    }


def with_one_quantizer(program, name):
    module = fx.copy(program.module)
    for node in list(module.graph.nodes):
        if node.target in FAKE_QUANTIZE and node.name != name:
            node.replace_all_uses_with(node.args[0])
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


@pytest.mark.parametrize("bits", ["W8A8", "W8A4"])
def test_an_estimate_is_the_noise_of_the_quantizer_alone(bits):
    _, program = quantized(bits, eight_bit_share=0.0, end_bits=8)
    images, clean = data(), with_one_quantizer(program, None)(data()).double()
    found = noise_of_activations(program, [images])
    assert {one.node.name for one in found} == {
        one.node.name for one in quantizers(program.module) if not one.is_weight
    }
    for one, estimate in found.items():
        noisy = with_one_quantizer(program, one.node.name)(images).double()
        share = ((noisy - clean).square().sum() / clean.square().sum()).item()
        assert estimate == pytest.approx(share, rel=0.5)  # which is 2 dB


def test_the_input_of_most_noise_for_its_work_gets_eight_bits():
    network, narrow = quantized(eight_bit_share=0.0)
    _, program = quantized()
    assert bits_into(narrow) == {"first": 8, "narrow": 4, "wide": 4, "last": 8}
    assert bits_into(program) == {"first": 8, "narrow": 8, "wide": 4, "last": 8}
    assert [one.node for one in program.decisions if one.rule == RULE] == ["conv2d_1"]
    with torch.no_grad():
        clean = network(data())
        before, after = ((one(data()) - clean).square().sum() for one in (narrow, program))
    assert after < before / 4


def test_a_budget_is_of_the_work():
    # The layers have 27, 1, 144 * 4 and about 0 products for each of 1,024 values.
    assert bits_into(quantized(eight_bit_share=1.0)[1])["wide"] == 8
    assert bits_into(quantized(eight_bit_share=0.001)[1])["narrow"] == 4


def test_bits_of_a_recipe_stay():
    asked = (Row("narrow", activation_bits=4),)
    assert bits_into(quantized(recipe=asked)[1])["narrow"] == 4


def test_eight_bits_stay_as_they_are():
    assert RULE not in {one.rule for one in quantized("W8A8")[1].decisions}


def test_more_bits_go_where_they_pay_most():
    noise = {"a": 0.5, "b": 0.3, "c": 0.195, "d": 0.005}
    cost = {"a": 0.5, "b": 0.1, "c": 0.05, "d": 0.0}
    assert worth_more_bits(noise, cost, 0.2) == {"b", "c"}  # d has less than 1% of the noise
    assert worth_more_bits(noise, cost, 1.0) == {"a", "b", "c"}
    assert worth_more_bits(noise, cost, 0.0) == set()
    assert worth_more_bits({}, cost, 1.0) == set()


class ClassToken(nn.Module):
    """A small token beside large ones, which it looks at; the output is what becomes of it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, 32))
        self.norm, self.mix, self.last = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 5)
        self.more = nn.Linear(32, 5)

    def forward(self, x):
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        seen = self.mix(self.norm(tokens))
        own = 0.02 * (seen[:, :1] + seen.mean(1, keepdim=True))
        tokens = tokens + torch.cat([own, seen[:, 1:]], 1)
        return self.last(50 * tokens[:, 0]) + 1e-3 * self.more(tokens).mean(1)


def class_token_db(monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(noise_budget, "LOUD", float("inf"))
    x = 30 * torch.randn(64, 16, 32, generator=torch.Generator().manual_seed(1))
    network = ClassToken().eval()
    options = zp.Options(rounding="nearest", processor="vnni")
    static = zp.quantize(zp.capture(network, x[:2]), calibration=[x], options=options)
    with torch.no_grad():
        return sqnr(network(x), static(x)), static


def test_a_small_token_is_not_lost_among_large_ones(monkeypatch):
    decibels, static = class_token_db()
    assert decibels > 25
    assert any(one.rule == RULE for one in static.decisions)
    assert class_token_db(monkeypatch)[0] < 10


class Stream(nn.Module):
    """Convolutions that each add a little to a stream of large values, as in Twins or PoolFormer."""

    def __init__(self, part, depth=6):
        super().__init__()
        torch.manual_seed(0)
        self.part = part
        self.stem, self.last = nn.Conv2d(3, 16, 1), nn.Linear(16, 5)
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth))

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = x + self.part * torch.tanh(layer(x))
        return self.last(x.mean((2, 3)) / x.std((2, 3)))


def stream(engine, bits="W8A8", **options):
    network = Stream(0.03 if engine == "onnxruntime" else 0.3).eval()
    chosen = zp.Options(rounding="nearest", processor="vnni", **options).at(bits)
    program = zp.capture(network, data(2))
    return network, zp.quantize(program, calibration=[data()], target=engine, options=chosen)


def sums_read(program):
    """How many operands of sums are quantized."""
    return sum(
        user.target is torch.ops.aten.add.Tensor
        for one in quantizers(program.module)
        for user in one.node.users
    )


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", pytest.param("torch", marks=pytest.mark.slow)])
def test_sums_of_most_noise_are_of_floats(engine, monkeypatch):
    network, program = stream(engine)
    assert sums_read(program) == (engine == "onnxruntime")  # what the stem gives is rounded there
    told = {one.node: one.reason for one in program.decisions if one.rule == "residual sum"}
    assert list(told.values()).count(noise_budget.TOO_LOUD) == 5
    assert len(told) == 6  # of which no integer operator reads the last
    monkeypatch.setattr(noise_budget, "QUIETER", 0.0)
    _, whole = stream(engine)
    assert sums_read(whole) >= 6
    with torch.no_grad():
        clean = network(data())
        assert sqnr(clean, program(data())) > sqnr(clean, whole(data())) + 2
    runner = zp.compile(program, engine, batch_size=64)
    assert sqnr(program(data()), runner(data())) > 40


def test_sums_stay_integers_where_the_weights_have_few_bits():
    assert sums_read(stream("openvino", "W4A8")[1]) >= 6


class Unlike(nn.Module):
    """A sum with channels of large values, which hardly matter beside the others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.more = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.last = nn.Conv2d(4, 5, 1)
        self.register_buffer("size", torch.tensor([1.0] * 4 + [1000.0] * 4).reshape(8, 1, 1))

    def forward(self, x):
        x = self.a(x) + torch.tanh(self.b(x)) * self.size
        return self.last(torch.tanh(x[:, :4])) + 1e-6 * self.more(x)


def test_a_value_alone_is_loud_if_it_makes_most_of_the_noise(monkeypatch):
    def made():
        program = zp.capture(Unlike().eval(), data(2))
        chosen = zp.Options(rounding="nearest", processor="vnni")
        return zp.quantize(program, "static", calibration=[data()], target="onnxruntime", options=chosen)

    monkeypatch.setattr(noise_budget, "QUIETER", 0.0)  # not all sums together
    found = made()
    assert [one.node for one in found.decisions if one.rule == RULE] == ["add"]
    monkeypatch.setattr(static, "MOST", 1.0)
    whole = made()
    assert not any(one.rule == RULE for one in whole.decisions)
    with torch.no_grad():
        clean = Unlike().eval()(data())
    assert sqnr(clean, found(data())) > sqnr(clean, whole(data())) + 20
