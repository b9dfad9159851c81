"""Planted faults are found, named and fixed; what is told is what other arithmetic gives."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import ADDS_INSIDE, images, options, randomized, residual, sqnr
from torch import Tensor, nn
from typer.testing import CliRunner

import zeropoint as zp
from zeropoint.cli import app
from zeropoint.diagnosis.causes import (
    CLIPS,
    DEAD_CHANNELS,
    OUTLIERS,
    OVERFLOW,
    SATURATED_CLIP,
    SPREAD_OUT,
    UNUSED_RANGE,
)
from zeropoint.diagnosis.diagnose import Diagnosis, LayerDiagnosis, diagnose, fixed
from zeropoint.diagnosis.fixes import left_float
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.layerwise import layerwise
from zeropoint.measure.simulate import overflowing
from zeropoint.quantization import quantize

DATA = [images(16, seed) for seed in range(4)]


def network() -> nn.Module:
    """Layers that equalization does not look through."""
    parts = [nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3)]
    return randomized(nn.Sequential(*parts, nn.Flatten(), nn.Linear(32, 5)))


def quantized(model: nn.Module, data: list[Tensor] = DATA, **chosen: object) -> Program:
    program = capture(model, data[0][:2])
    return quantize(program, "static", calibration=data, target=ADDS_INSIDE, options=options(**chosen))


def named(diagnosis: Diagnosis, name: str) -> LayerDiagnosis:
    return next(layer for layer in diagnosis.layers if layer.name == name)


def with_grid(program: Program, layer: str, change: Callable[[float], float]) -> Program:
    """The Program with another scale in front of a layer."""
    module = fx.copy(program.module)
    for one in quantizers(module):
        if not one.is_weight and any(fx.module_name(user) == layer for user in one.node.users):
            source, scale, *rest = one.node.args
            one.node.args = (source, change(scale), *rest)
    module.recompile()
    return dataclasses.replace(program, module=module)


@pytest.mark.slow
def test_a_channel_a_thousand_times_as_large():
    model = network()
    healthy = diagnose(quantized(model), DATA)
    assert not any(cause.name == SPREAD_OUT for layer in healthy.layers for cause in layer.causes)
    with torch.no_grad():
        model[0].weight[2] *= 1000
        model[0].bias[2] *= 1000
        model[2].weight[:, 2] /= 1000
    found = diagnose(quantized(model), DATA)
    worst = found.layers[0]
    assert worst.name == "2"
    assert (worst.causes[0].name, worst.causes[0].operand) == (SPREAD_OUT, "input")
    assert found.sqnr_db < healthy.sqnr_db - 10
    best = found.advice[0]
    assert best.fix.layer == "2"
    assert best.gain_db > 10


@pytest.mark.slow
def test_weights_that_overflow_on_another_processor():
    program = quantized(network())  # for a processor on which sums are exact
    here, there = (diagnose(program, DATA, processor=name) for name in ("vnni", "avx2"))
    assert not any(cause.name == OVERFLOW for layer in here.layers for cause in layer.causes)
    worst = there.layers[0]
    assert (worst.causes[0].name, worst.causes[0].operand) == (OVERFLOW, "weight")
    assert there.sqnr_db < here.sqnr_db - 3
    advice = next(one for one in there.advice if one.fix.what.startswith("weights that cannot overflow"))
    assert advice.fix.layer == worst.name
    assert advice.gain_db > 1
    left = {fx.module_name(node) for node in overflowing(advice.fix.apply(program), "avx2")}
    assert worst.name not in left


@pytest.mark.slow
def test_one_outlier_among_the_activations():
    spoilt = [batch.clone() for batch in DATA]
    spoilt[0][3, 1, 4, 4] = 400.0
    found = diagnose(quantized(network(), spoilt), DATA)
    assert found.layers[0].name == "0"
    spoilt_too = diagnose(quantized(network(), spoilt), spoilt)
    assert named(spoilt_too, "0").causes[0].name == OUTLIERS
    assert named(found, "0").causes[0].name == UNUSED_RANGE
    assert found.advice[0].fix.layer == "0"


@pytest.mark.slow
def test_one_clipped_layer():
    program = with_grid(quantized(network()), "4", lambda scale: scale / 8)
    found = diagnose(program, DATA)
    assert found.layers[0].name == "4"
    assert found.layers[0].causes[0].name == CLIPS
    assert [layer.name for layer in found.layers if layer.causes] == ["4"]
    ranges = next(one for one in found.advice if one.fix.what.endswith("range for its input"))
    assert ranges.fix.layer == "4"
    assert ranges.gain_db > 10
    better, taken = fixed(program, found, DATA)
    assert taken[0].fix.layer == "4"
    expected = capture(network(), DATA[0][:2])(DATA[0])
    assert sqnr(expected, better(DATA[0])) > sqnr(expected, program(DATA[0])) + 10


def test_dead_channels_and_clips_that_are_full():
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3)))
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = -1
        model[0].weight[2:] *= 20
    causes = {cause.name for cause in named(diagnose(quantized(model), DATA), "2").causes}
    assert causes >= {DEAD_CHANNELS, SATURATED_CLIP}


@pytest.mark.slow
def test_advice_measured_is_what_the_mended_program_gives():
    program = quantized(network(), weight_bits=4, end_bits=4)
    found = diagnose(program, DATA)
    expected = capture(network(), DATA[0][:2])(torch.cat(DATA))
    before = sqnr(expected, program(torch.cat(DATA)))
    assert found.sqnr_db == pytest.approx(before, abs=0.1)  # ties may be rounded the other way
    assert {one.fix.what for one in found.advice} >= {"8-bit weights", "leave it float"}
    for one in found.advice:
        after = sqnr(expected, one.fix.apply(program)(torch.cat(DATA)))
        assert one.gain_db == pytest.approx(after - before, abs=0.1)
    assert [one.gain_db for one in found.advice] == sorted((a.gain_db for a in found.advice), reverse=True)


class Buried(nn.Module):
    """What tells inputs apart is small beside a constant, which a layer takes away again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.third, self.last = nn.Conv2d(8, 8, 3), nn.Linear(32, 5)
        with torch.no_grad():
            self.first.bias += 1000
            self.second.bias -= 1000 * self.second.weight.sum((1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.second(nn.functional.hardswish(self.first(x))))
        return self.last(nn.functional.hardswish(self.third(y)).flatten(1))


@pytest.mark.slow
def test_a_fix_is_measured_on_layers_fitted_anew():
    data = [images(16, seed) for seed in range(8)]
    program = quantized(Buried(), data, rounding="gptq")
    found = diagnose(program, data, items=128)
    best = found.advice[0]
    assert best.fix.layer == "second"
    alone = best.fix.apply(program)  # with the others as they were fitted
    better, taken = fixed(program, found, data)
    expected = capture(Buried(), data[0][:2])(torch.cat(data))
    before, stays, anew = (sqnr(expected, one(torch.cat(data))) for one in (program, alone, better))
    assert taken[0].fix.layer == "second"
    assert stays - before < 3
    assert best.gain_db > 20
    assert anew - before > 20


def test_all_layers_left_float_are_the_float_network():
    program = quantized(network(), rounding="gptq", weight_bits=4)
    looked = layerwise(program, DATA, 16)
    for seen in looked.seen:
        program = left_float(program, seen.node.name, looked)
    assert not list(quantizers(program.module))
    torch.testing.assert_close(program(DATA[0]), capture(network(), DATA[0][:2])(DATA[0]))
    assert len(looked.seen) == 4


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_layers_and_advice_have_their_times(engine: str):
    program = quantized(network(), activation_bits=4)
    found = diagnose(program, DATA, engine=engine, items=16)
    assert (found.engine, found.items) == (engine, 16)
    timed = [layer for layer in found.layers if layer.milliseconds is not None]
    assert len(timed) == len(found.layers)
    assert all(layer.milliseconds > 0 for layer in timed)
    assert all(layer.float_milliseconds > 0 for layer in found.layers if layer.float_milliseconds is not None)
    assert found.advice[0].latency is not None


def test_what_cannot_be_diagnosed():
    with pytest.raises(InputError, match="the Program is fp32; quantize it"):
        diagnose(residual(), DATA)
    with pytest.raises(InputError, match="torch reports no times of layers"):
        diagnose(quantized(network()), DATA, engine="torch")


@pytest.mark.slow
def test_the_command(tmp_path: Path):
    out = tmp_path / "better.pt2"
    command = ["diagnose", "digits/mobilenet", "--data", "digits", "--limit-batches", "2", "--bits", "W4A4"]
    result = CliRunner().invoke(
        app, [*command, "--engine", "torch", "--items", "16", "--json", "--apply", str(out)]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["bits"], told["items"], told["engine"]) == ("W4A4", 16, None)
    assert {"name", "operator", "local_db", "alone_db", "causes"} <= told["layers"][0].keys()
    alone = [layer["alone_db"] for layer in told["layers"] if layer["alone_db"] is not None]
    assert alone == sorted(alone)
    assert zp.load(out).weight_bits == 4
    shown = CliRunner().invoke(app, [*command, "--engine", "torch", "--items", "8", "--top", "3"])
    assert "Advice, each measured alone" in shown.stdout
    assert "more; --top shows more" in shown.stdout


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--method", "fp32"], "fp32 quantizes nothing"),
        (["--apply", "better.onnx"], "a Program is saved as .pt2"),
        (["--engine", "tensorrt"], "unknown engine 'tensorrt'"),
        (["--skip", "nothing.*"], "matches no module"),
    ],
)
def test_wrong_arguments_are_told(more: list[str], told: str):
    result = CliRunner().invoke(app, ["diagnose", "digits/mobilenet", "--data", "digits", *more])
    assert isinstance(result.exception, InputError)
    assert told in str(result.exception)
