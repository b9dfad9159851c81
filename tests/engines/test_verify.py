"""An artefact that computes something else than its Program is not handed out."""

import dataclasses

import pytest
import torch
from networks import images, options, residual

import zeropoint as zp
from zeropoint.engines import find
from zeropoint.engines.verify import WrongError, check_lowering
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.numerics.sqnr import sqnr_db


@pytest.fixture
def lower_wrongly(monkeypatch):
    """ONNX Runtime, with the biases of one layer changed while it lowers."""
    engine = find("onnxruntime")
    lower = engine.lower

    def wrong(program, path):
        module = fx.copy(program.module)
        bias = fx.tensor_of(module, next(n for n in module.graph.nodes if n.target == "inner.bias"))
        fx.set_tensor(module, "inner.bias", bias + 10.0)
        lower(dataclasses.replace(program, module=module), path)

    monkeypatch.setattr(engine, "lower", wrong)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fp32", "static"])
def test_a_wrong_artefact_is_an_error_and_leaves_no_file(lower_wrongly, tmp_path, method):
    program = residual()
    if method == "static":
        program = zp.quantize(program, calibration=[images()], options=options(), target="onnxruntime")
    with pytest.raises(InputError, match=r"computes something else than the Program: output 1 .* dB"):
        zp.compile(program, "onnxruntime", path=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    assert zp.compile(program, "onnxruntime", path=tmp_path / "m", verify=False).artefact.exists()


def outputs_of(change):
    """A run that gives the Program's outputs, changed."""
    program = residual()
    return program, lambda *inputs: tuple(change(list(program.flat(*inputs))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: out * 2, "gives 2 outputs where the Program has 1"),
        (lambda out: [out[0][:, :-1]], r"output 1 of shape \(1, 4\) where the Program has \(1, 5\)"),
        (lambda out: [out[0] * float("nan")], "output 1 has NaN in other places"),
        (lambda out: [out[0] + out[0].abs().mean()], "output 1 has an SQNR of"),
        (lambda out: [torch.zeros_like(out[0])], "an SQNR of 0.0 dB"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    program, run = outputs_of(change)
    with pytest.raises(WrongError, match=message):
        check_lowering(program, run, "mine", 1)


@pytest.mark.parametrize("dropout", [0.0, 0.5])  # off in eval mode
def test_recurrent_layers_are_checked(dropout):
    layer = torch.nn.LSTM(4, 4, num_layers=2, dropout=dropout)
    program = zp.capture(layer, torch.randn(3, 2, 4))
    with pytest.raises(WrongError, match=r"output 1 has an SQNR of 0\.0 dB"):
        check_lowering(program, lambda *x: tuple(map(torch.zeros_like, program.flat(*x))), "mine", 2)


def test_what_changes_from_call_to_call_is_wrong():
    calls = []

    def grown(out):
        calls.append(out)
        return [out[0] + 0.01 * len(calls)]  # near enough to the simulation, every time

    program, run = outputs_of(grown)
    program = dataclasses.replace(program, weight_bits=8, activation_bits=8)
    with pytest.raises(WrongError, match="mine gives other outputs when it is called again: output 1 has an"):
        check_lowering(program, run, "mine", 1)
    assert len(calls) == 2


def test_every_item_of_a_batch_is_compared():
    program = residual()

    def run(*inputs):
        (out,) = program.flat(*inputs)
        return (out * torch.arange(1, 1 + len(out)).reshape(-1, 1),)  # the first item is right

    check_lowering(program, run, "mine", 1)
    with pytest.raises(WrongError, match="output 1 has an SQNR of"):
        check_lowering(program, run, "mine", 2)
    check_lowering(program, run, "openvino", 1)
    integers = dataclasses.replace(program, weight_bits=8, activation_bits=8)
    with pytest.raises(WrongError, match="output 1 has an SQNR of"):
        check_lowering(integers, run, "openvino", 1)  # which takes any batch


class Drops(torch.nn.Module):
    """Dropout that stays on."""

    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5)


def test_random_outputs_have_the_shape_and_differ():
    program = zp.capture(Drops(), torch.ones(2, 64))
    check_lowering(program, program.flat, "mine", 1)
    with pytest.raises(WrongError, match="draws no random numbers where the Program does"):
        check_lowering(program, lambda x: (x,), "mine", 1)
    with pytest.raises(WrongError, match=r"of shape \(64,\) where the Program has \(1, 64\)"):
        check_lowering(program, lambda x: (program.flat(x)[0][0],), "mine", 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_right_passes(batch):
    program, run = outputs_of(lambda out: [out[0] * (1 + 1e-4)])  # 80 dB
    check_lowering(program, run, "mine", batch)


def test_a_program_for_another_processor_is_left_out(monkeypatch):
    program, run = outputs_of(lambda out: [out[0] * 2])
    monkeypatch.setattr("zeropoint.engines.verify.mismatch", lambda *_: "made for another")
    check_lowering(program, run, "mine", 1)


def test_sqnr_by_hand():
    signal = torch.tensor([3.0, 4.0])
    assert sqnr_db(signal, torch.tensor([3.0, 4.5])) == pytest.approx(20.0)  # 25 / 0.25
    assert sqnr_db(signal, signal) == float("inf")
    assert sqnr_db(signal, torch.zeros(2)) == 0.0


def test_outputs_that_are_farther_from_float_than_the_simulation_s_are_wrong():
    program = zp.quantize(residual(), calibration=[images()], options=options(), target="onnxruntime")
    program = dataclasses.replace(program, example_inputs=(program.example_inputs[0][:1],))
    (right,) = program.flat(*program.example_inputs)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(right.shape, generator=generator)
    noise *= right.norm() / noise.norm() * 10 ** (-16 / 20)  # 16 dB, which a deep network may have
    assert sqnr_db(right, right + noise) == pytest.approx(16, abs=0.1)
    for share, told in ((1, "1"), (0.34, "2")):  # 16 and 25.4 dB
        with pytest.raises(
            WrongError, match=rf"has an SQNR of {told}\d\.\d dB, where the simulation has [34]\d"
        ):
            check_lowering(program, lambda *_, off=share * noise: (right + off,), "mine", len(right))
    check_lowering(program, lambda *_: (right + noise / 16,), "mine", len(right))  # 40 dB
