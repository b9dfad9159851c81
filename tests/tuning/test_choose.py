from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import images, residual
from torch import nn

from zeropoint import engines
from zeropoint.engines import Runner
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.targets.options import Options
from zeropoint.training.options import TrainingOptions
from zeropoint.tuning import choose
from zeropoint.tuning.choose import fastest_engine, fastest_target


@pytest.fixture
def machine(monkeypatch):
    """A machine on which calls take, and engines fail, as set; gives what was compiled."""
    compiled = []

    def of(medians, failing=()):
        def compile(program, engine, *, threads=None, batch_size=1):
            compiled.append((engine, program.method, program.target, threads, batch_size))
            if engine in failing:
                raise InputError(f"{engine} is out of order")
            return Runner(engine, threads or 2, None, program)

        def interleave(runs, *, seconds):
            for run in runs.values():
                run()
            return {name: np.full(20, medians[name]) for name in runs}

        monkeypatch.setattr(choose, "compile", compile)
        monkeypatch.setattr(choose, "interleave", interleave)
        return compiled

    return of


def test_the_engine_with_the_lowest_median_is_taken(machine):
    compiled = machine({"torch": 0.003, "onnxruntime": 0.001, "openvino": 0.002})
    runner, choice = fastest_engine(residual(), threads=1, batch_size=4)
    assert runner.engine == choice.engine == "onnxruntime"
    assert [(name, one.p50) for name, one in choice.latency_ms.items()] == [
        ("onnxruntime", pytest.approx(1)),
        ("openvino", pytest.approx(2)),
        ("torch", pytest.approx(3)),
    ]
    assert choice.failed == {}
    assert [line[3:] for line in compiled] == [(1, 4)] * 3


def test_an_engine_that_fails_is_named_and_left_out(machine):
    machine({"torch": 0.003, "onnxruntime": 0.001, "openvino": 0.002}, failing=["onnxruntime"])
    said = []
    runner, choice = fastest_engine(residual(), say=said.append)
    assert runner.engine == "openvino"
    assert choice.failed == {"onnxruntime": "onnxruntime is out of order"}
    assert "onnxruntime is left out: onnxruntime is out of order" in said


def test_no_engine_left_and_unknown_engines_are_refused(machine):
    machine({}, failing=engines.NAMES)
    with pytest.raises(
        InputError, match="no engine can run this Program: torch: torch is out of order; onnx"
    ):
        fastest_engine(residual())
    with pytest.raises(InputError, match="unknown engine 'onnx'"):
        fastest_engine(residual(), engines=["onnx"])
    with pytest.raises(InputError, match="none is installed"):
        fastest_engine(residual(), engines=[])


def test_the_threads_of_torch_stay_as_they_were(machine, monkeypatch):
    machine({"torch": 1.0, "openvino": 2.0})
    fake = choose.compile

    def compile(*arguments, **options):
        torch.set_num_threads(1)
        return fake(*arguments, **options)

    monkeypatch.setattr(choose, "compile", compile)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        fastest_engine(residual(), engines=["torch", "openvino"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def quantized(monkeypatch):
    """The methods and targets that were quantized for."""
    asked, quantize = [], choose.quantize

    def spy(program, method, **options):
        asked.append((method, options["target"]))
        return quantize(program, method, **options)

    monkeypatch.setattr(choose, "quantize", spy)
    return asked


def test_targets_with_the_same_placement_share_a_program(machine, quantized, monkeypatch):
    compiled = machine({"torch": 0.003, "onnxruntime": 0.004, "openvino": 0.002})
    rules = engines.target("openvino")
    different = engines.target("torch")
    monkeypatch.setattr(choose, "target", lambda name, _: different if name == "onnxruntime" else rules)
    program, choice = fastest_target(residual(), "static", calibration=[images()])
    assert quantized == [("static", "torch"), ("static", "onnxruntime")]
    assert choice.engine == program.target == "openvino"
    assert program.method == "static"
    assert [line[:3] for line in compiled] == [
        ("torch", "static", "torch"),
        ("openvino", "static", "openvino"),
        ("onnxruntime", "static", "onnxruntime"),
    ]


class Attending(nn.Module):
    """Attention in front of a linear layer; (N, 3, 4) to (N, 3, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs."""
        return self.linear(nn.functional.scaled_dot_product_attention(x, x, x))


@pytest.mark.parametrize("differs", [{"zero_in_middle": False}, {"inputs": frozenset({"add", "product"})}])
def test_targets_that_differ_beyond_placement_do_not(differs):
    alike = replace(engines.target("torch"), inputs=frozenset({"add"}))
    rules = {"torch": alike, "openvino": replace(alike, **differs), "onnxruntime": alike}
    model = capture(Attending(), torch.randn(2, 3, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "target", lambda name, _: rules[name])
        groups = choose.by_placement(model, "static", list(rules), Options())
    assert groups == [["torch", "onnxruntime"], ["openvino"]]


@pytest.mark.parametrize(("method", "target", "times"), [("dynamic", "onnxruntime", 3), ("bf16", "", 1)])
def test_engines_share_floats_and_have_ranges_at_run_time_of_their_own(
    machine, quantized, monkeypatch, method, target, times
):
    machine({"torch": 0.003, "onnxruntime": 0.001, "openvino": 0.002})
    monkeypatch.setattr(engines.find("onnxruntime"), "unsupported", lambda _: None)
    for name in ("torch", "openvino"):
        monkeypatch.setattr(engines.find(name), "unsupported", lambda _: None)
    program, choice = fastest_target(residual(), method)
    assert len(quantized) == times
    assert choice.engine == "onnxruntime"
    assert (program.method, program.target) == (method, target)


def test_engines_without_the_method_are_not_quantized_for(machine, quantized, monkeypatch):
    machine({"torch": 0.003, "openvino": 0.002})
    monkeypatch.setattr(engines.find("onnxruntime"), "unsupported", lambda method: f"no {method} here")
    _, choice = fastest_target(residual(), "static", calibration=[images()])
    assert "onnxruntime" not in [target for _, target in quantized]
    assert choice.failed == {"onnxruntime": "no static here"}


def test_qat_trains_for_the_fastest_target_alone(machine, quantized):
    compiled = machine({"torch": 0.003, "onnxruntime": 0.001, "openvino": 0.002})
    data = [(images(), torch.arange(4))]
    options = choose.Options(training=TrainingOptions(epochs=1))
    program, choice = fastest_target(residual(), "qat", calibration=data, train=data, options=options)
    assert (program.method, program.target, choice.engine) == ("qat", "onnxruntime", "onnxruntime")
    assert [line for line in quantized if line[0] == "qat"] == [("qat", "onnxruntime")]
    assert {method for _, method, *_ in compiled} == {"static"}


def test_a_loss_of_the_user_s_trains_and_is_tried_before_any_quantization(machine, monkeypatch):
    machine({"openvino": 0.001})
    train = [(images(8), torch.arange(8) % 5)]
    data = {"calibration": [images(8)], "train": train, "engines": ["openvino"]}
    training = TrainingOptions(epochs=1)
    seen = []

    def loss(outputs, targets):
        seen.append(len(targets))
        return nn.functional.cross_entropy(outputs, targets)

    fastest_target(residual(), "qat", **data, options=Options(training=training), loss=loss)
    assert len(seen) == 3  # tried by this function and by quantize, and one step
    monkeypatch.setattr(choose, "quantize", None)
    with pytest.raises(InputError, match="the loss fails on the first batch of the training data: TypeError"):
        fastest_target(residual(), "qat", **data, loss=lambda outputs: outputs.sum())


def test_data_that_is_missing_is_no_engine_s_failure(machine):
    machine({})
    with pytest.raises(InputError, match="needs calibration data"):
        fastest_target(residual(), "static")
    with pytest.raises(InputError, match="needs train data"):
        fastest_target(residual(), "qat", calibration=[images()])
    with pytest.raises(InputError, match="is static already"):
        fastest_target(choose.quantize(residual(), calibration=[images()]), "dynamic")
