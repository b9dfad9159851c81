import dataclasses
import importlib

import numpy as np
import pytest
import torch
from networks import ADDS_INSIDE, ROUNDS_FIRST, images, options, residual, round_to_nearest, sqnr, static
from torch import nn

from zeropoint.data.batches import inputs_of
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.passes.equalize import Equalized
from zeropoint.targets import machine

module_of = importlib.import_module("zeropoint.methods.static")  # the package names the function so


def by_source(program: Program):
    return {str(q.source.target if q.is_weight else q.source.name): q for q in quantizers(program.module)}


def test_convolution_and_relu_by_hand():
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.Conv1d(1, 1, 1))
    with torch.no_grad():
        for tensor, value in zip(model.parameters(), (0.5, 0.25, -2.0, 0.0), strict=True):
            tensor.fill_(value)
    x = torch.tensor([[[-1.0, 0.0, 0.3, 1.55]]])
    program = static(capture(model, x), ADDS_INSIDE, [x], options())
    found = by_source(program)
    assert set(found) == {"input_1", "relu", "0.weight", "2.weight"}
    # Input from -1 to 1.55: scale 2.55 / 255 = 0.01, zero point 100.
    assert found["input_1"].scale.item() == pytest.approx(0.01)
    assert found["input_1"].zero_point.item() == 100
    # ReLU of 0.5 x + 0.25: from 0 to 1.025.
    assert found["relu"].scale.item() == pytest.approx(1.025 / 255)
    assert found["relu"].zero_point.item() == 0
    # Weights: scale |w| / 127, so the integer is 127 or -127.
    assert found["0.weight"].scale.item() == pytest.approx(0.5 / 127)
    assert found["0.weight"].integers(program.module).item() == 127
    assert found["2.weight"].integers(program.module).item() == -127
    # 0.5 · (-1, 0, 0.3, 1.55) + 0.25 = -0.25, 0.25, 0.4, 1.025, cut to 0 and rounded to steps of 1.025 / 255.
    steps = [0, round(0.25 * 255 / 1.025), round(0.4 * 255 / 1.025), 255]
    expected = [-2 * step * 1.025 / 255 for step in steps]
    assert program(x).flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_a_target_without_zero_in_the_middle():
    model, x = nn.Linear(1, 1), torch.tensor([[-1.28], [1.27]])
    for target, scale, zero_point in (
        (ADDS_INSIDE, 0.01, 128),
        (dataclasses.replace(ADDS_INSIDE, zero_in_middle=False), 1.28 / 127, 127),
    ):
        found = by_source(static(capture(model, x), target, [x], options()))["input_1"]
        assert found.scale.item() == pytest.approx(scale)
        assert found.zero_point.item() == zero_point


def test_linear_by_hand():
    model = nn.Linear(4, 4)
    weight = np.array([[1, -2, 3, -4], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [8, 0.1, -8, 3]], np.float32)
    bias = np.array([0.1, -0.2, 0.3, 0], np.float32)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weight))
        model.bias.copy_(torch.from_numpy(bias))
    x = np.array([[1.0, 2.0, -1.0, 0.5], [4.1, 0.0, 0.3, -0.5]], np.float32)
    program = static(capture(model, torch.from_numpy(x)), ADDS_INSIDE, [torch.from_numpy(x)], options())
    # A row of zeros gets the scale at which its bias has 2**24 units, those of the input being 0.02.
    scales = np.array([4 / 127, 0.5 / 127, 0.3 / 0.02 / 2**24, 8 / 127])
    integers = np.rint(weight / scales[:, None])
    quantizer = by_source(program)["weight"]
    assert np.array_equal(quantizer.integers(program.module).numpy(), integers)
    assert quantizer.scale.numpy() == pytest.approx(scales)
    assert quantizer.zero_point.tolist() == [0, 0, 0, 0]
    # The input spans -1 to 4.1: scale 0.02, zero point 50.
    levels = np.clip(np.rint(x / 0.02) + 50, 0, 255)
    expected = ((levels - 50) @ integers.T + np.rint(bias / (0.02 * scales))) * 0.02 * scales
    assert program(torch.from_numpy(x)).numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("target", [ADDS_INSIDE, ROUNDS_FIRST])
@pytest.mark.parametrize(
    ("chosen", "least"),
    [
        ({}, 28),
        ({"activation_symmetric": True}, 25),
        ({"weight_symmetric": False}, 28),
        ({"weight_granularity": "per-tensor"}, 25),
        ({"weight_bits": 4}, 10),
        ({"activation_bits": 4}, 8),
        ({"weight_ranges": "mse", "weight_bits": 4}, 10),
    ],
)
def test_fidelity_and_that_options_do_what_they_say(target, chosen, least):
    program = residual()
    quantized = static(program, target, [images(16, seed) for seed in range(4)], options(**chosen))
    assert sqnr(program(images(16, 9)), quantized(images(16, 9))) > least
    assert quantized.method == "static"
    assert quantized.target == target.name
    assert quantized.weight_bits == chosen.get("weight_bits", 8)
    assert quantized.activation_bits == chosen.get("activation_bits", 8)
    for quantizer in quantizers(quantized.module):
        scheme = quantizer.scheme
        if quantizer.is_weight:
            assert scheme.bits == quantized.weight_bits
            assert scheme.granularity == chosen.get("weight_granularity", "per-channel")
            assert quantizer.integers(quantized.module).unique().numel() <= 2**scheme.bits
            if chosen.get("weight_symmetric", True):
                assert not quantizer.zero_point.any()
        else:
            assert scheme.bits in (8, quantized.activation_bits)
            if chosen.get("activation_symmetric"):
                assert quantizer.zero_point.item() in (0, 1 << (scheme.bits - 1))


def test_the_given_program_and_model_are_left_alone():
    program = residual()
    code, state = program.module.code, {k: v.clone() for k, v in program.module.state_dict().items()}
    static(program, ADDS_INSIDE, [images()], options())
    assert program.module.code == code
    assert program.method == "fp32"
    assert all(torch.equal(value, state[name]) for name, value in program.module.state_dict().items())


def test_quantizing_twice_gives_the_same():
    one, two = (static(residual(), ADDS_INSIDE, [images()], options(ranges="mse")) for _ in range(2))
    assert torch.equal(one(images()), two(images()))


@pytest.mark.parametrize("ranges", ["minmax", "moving-average", "percentile", "mse", "entropy"])
def test_dead_channels_and_constant_inputs(ranges):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[1].weight[1] = 0
        model[1].running_var[2] = 0
        model[3].weight.zero_()
    for x in (torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)):
        program = capture(model, x)
        quantized = static(program, ADDS_INSIDE, [x], options(ranges=ranges, weight_ranges="mse"))
        assert quantized(x).isfinite().all()
        torch.testing.assert_close(quantized(x), program(x), rtol=0.02, atol=0.02)


def test_calibration_batches_limits_what_is_read():
    class Endless:
        def __iter__(self):
            while True:
                yield images(2)

    static(residual(), ADDS_INSIDE, Endless(), options(calibration_batches=2))


def test_empty_calibration():
    with pytest.raises(InputError, match="calibration set is empty"):
        static(residual(), ADDS_INSIDE, [], options())


def test_skip_everything_is_the_float_program():
    quantized = static(residual(), ADDS_INSIDE, [images()], options(skip=("*",)))
    assert not any(node.target in FAKE_QUANTIZE for node in quantized.module.graph.nodes)
    torch.testing.assert_close(quantized(images()), residual()(images()))


def test_large_networks_are_observed_in_bfloat16(monkeypatch: pytest.MonkeyPatch):
    def scales() -> list[float]:
        quantized = static(residual(), ADDS_INSIDE, [images()], options())
        return [float(q.scale) for q in quantizers(quantized.module) if not q.is_weight]

    def processor(name: str, *sets: str) -> None:
        monkeypatch.setattr(machine, "describe", lambda: {"processor": name, "instruction_sets": list(sets)})

    wide = scales()
    processor("AMD EPYC", "avx512_bf16")
    assert scales() == wide  # it is too small to be worth it
    monkeypatch.setattr(importlib.import_module("zeropoint.graph.macs"), "HEAVY", 0)
    assert scales() != wide
    assert scales() == pytest.approx(wide, rel=0.01)
    processor("Intel Xeon", "avx512_bf16", "amx_bf16")
    assert scales() != wide
    for sets in ([], ["avx512_bf16"]):  # nothing for bfloat16, or nothing that is faster
        processor("Intel Xeon", *sets)
        assert scales() == pytest.approx(wide, rel=1e-5)


def test_fitting_is_checked_on_items_that_it_has_not_seen(monkeypatch: pytest.MonkeyPatch):
    data, seen = [images(4, seed) for seed in range(16)], []
    fit = module_of.gptq

    def spoiled(program, calibration, **limits):
        seen.extend(float(item.flatten()[0]) for (batch,) in inputs_of(calibration) for item in batch)
        return dataclasses.replace(
            fit(program, data, **limits),
            module=round_to_nearest(residual(), ADDS_INSIDE, data, options(weight_bits=2, end_bits=2)).module,
        )

    monkeypatch.setattr(module_of, "gptq", spoiled)
    chosen = static(residual(), ADDS_INSIDE, data, options(rounding="gptq"))
    plain = static(residual(), ADDS_INSIDE, data, options())
    assert torch.equal(chosen(images(4, 99)), plain(images(4, 99)))
    assert seen == [float(item.flatten()[0]) for n, item in enumerate(torch.cat(data)) if n % 8 != 7]


def test_judging_equalization_reads_no_batch_twice(monkeypatch: pytest.MonkeyPatch):
    data = [images(4, seed) for seed in range(3)]
    plain = round_to_nearest(residual(), ADDS_INSIDE, data, options())
    monkeypatch.setattr(module_of, "CHECKED", 4)
    monkeypatch.setattr(module_of, "equalize", lambda of, *_, **__: Equalized(dataclasses.replace(of), 0.9))
    for kept in (0, 1):
        monkeypatch.setattr(module_of, "nearest", lambda _, both, *__, kept=kept, **___: both[kept])
        judged = round_to_nearest(residual(), ADDS_INSIDE, data, options())
        assert [one.scale.tolist() for one in quantizers(judged.module)] == [
            one.scale.tolist() for one in quantizers(plain.module)
        ]


@pytest.mark.parametrize(
    ("bits", "remaining", "is_taken"), [("W8A8", 0.4, False), ("W4A4", 0.4, True), ("W4A4", 0.6, False)]
)
def test_equalization_is_taken_without_a_trial_if_few_bits_gain_much(
    bits: str, remaining: float, is_taken: bool, monkeypatch: pytest.MonkeyPatch
):
    """A trial decides against it; the network that stands for the equalized one has another bias."""
    data, trials = [images(4, seed) for seed in range(3)], []

    def changed(program, *_, **__):
        module = fx.copy(program.module)
        name = next(name for name, _ in module.named_parameters() if name.endswith("bias"))
        fx.set_tensor(module, name, module.get_parameter(name).detach() + 1, trainable=True)
        return Equalized(dataclasses.replace(program, module=module), remaining)

    def against(_, both, *__, **___):
        trials.append(both)
        return both[1]

    plain = round_to_nearest(residual(), ADDS_INSIDE, data, options().at(bits))
    monkeypatch.setattr(module_of, "equalize", changed)
    monkeypatch.setattr(module_of, "nearest", against)
    found = round_to_nearest(residual(), ADDS_INSIDE, data, options().at(bits))
    assert torch.equal(found(images(4, 99)), plain(images(4, 99))) is not is_taken
    assert len(trials) == (not is_taken)


@pytest.mark.parametrize(("factor", "grids"), [(1.5, 1), (30.0, 2)])
def test_a_value_shares_a_grid_that_is_much_coarser_with_the_concatenation_alone(factor, grids):
    class Join(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.beside, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)
            self.other.weight.data = self.first.weight.data.flip(0)
            self.other.bias.data = self.first.bias.data.flip(0)

        def forward(self, x):
            y = torch.sigmoid(self.first(x)) - 0.5
            return self.beside(y), self.last(torch.cat([y, factor * (torch.sigmoid(self.other(x)) - 0.5)], 1))

    torch.manual_seed(0)
    data = [images(4, seed) for seed in range(4)]
    program = static(capture(Join().eval(), data[0]), ADDS_INSIDE, data, options())
    reading = {fx.module_name(user): one for one in quantizers(program.module) for user in one.node.users}
    (join,) = [node for node in program.module.graph.nodes if node.target is torch.ops.aten.cat.default]
    into = [one for one in quantizers(program.module) if join in one.node.users]
    scales = {float(one.scale) for one in into} | {float(reading["last"].scale)}
    assert len(scales) == 1  # the concatenation copies
    assert len(scales | {float(reading["beside"].scale)}) == grids
    own = [one for one in quantizers(program.module) if one.node in [n.node.args[0] for n in into]]
    assert len(own) == grids - 1  # from its own grid to the shared one
