"""What all engines have in common: names, what is missing, and that they compute what the simulation does."""

import importlib.util

import pytest
import torch
from mixed import (
    ManyOutputs,
    Recurrent,
    Transformer,
    TwoInputs,
    assert_parity,
    batches,
    noise_db,
)
from networks import ADDS_INSIDE, randomized
from torch import Tensor, nn

from zeropoint import engines
from zeropoint.engines import compile
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.measure.integers import Integers, integers
from zeropoint.measure.size import on_disk
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options

QUICK = ("openvino", "onnxruntime")  # the torch engine calls a C++ compiler


def test_unknown_engine_is_named_with_the_closest():
    with pytest.raises(InputError, match="unknown engine 'onnx-runtime'; did you mean onnxruntime"):
        engines.find("onnx-runtime")
    with pytest.raises(InputError, match="unknown engine 'opnvino'; did you mean openvino"):
        engines.target("opnvino")


def test_an_engine_is_found_without_importing_the_others(monkeypatch: pytest.MonkeyPatch):
    asked, named = [], engines.named
    monkeypatch.setattr(engines, "named", lambda name: asked.append(name) or named(name))
    assert engines.find("openvino").PACKAGES == ("openvino",)
    assert asked == ["openvino"]


def test_engine_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    command = "pip install 'zeropoint[onnxruntime]'"
    assert {name: hint for name, hint in engines.missing().items() if name not in engines.ON_REQUEST} == {
        "onnxruntime": command
    }
    assert engines.installed() == ["torch", "openvino"]
    with pytest.raises(InputError) as caught:
        engines.find("onnxruntime")
    assert str(caught.value) == f"engine 'onnxruntime' is not installed; install it with: {command}"
    assert engines.target("onnxruntime").name == "onnxruntime"  # rules need no package


@pytest.mark.parametrize("engine", ["torch", *QUICK])
def test_float32_equals_eager(float32: Program, data: list[Tensor], engine: str):
    runner = compile(float32, engine, threads=1)
    for size in (1, 3, 8):
        output = runner(data[0][:size])
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, float32(data[0][:size]), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
@pytest.mark.parametrize("bits", [8, 4])
def test_static_is_at_parity_with_the_simulation(
    float32: Program, data: list[Tensor], engine: str, bits: int
):
    # Fitted, this network is so near to float that one value in the middle of a coarse step tells.
    options = Options(weight_bits=bits, activation_bits=bits, rounding="nearest")
    program = quantize(float32, "static", calibration=data, target=engine, options=options)
    inputs = [(batch,) for batch in (*data, data[0][:3], data[0][:1])]
    assert_parity(float32, program, compile(program, engine, threads=1), inputs)


@pytest.mark.parametrize("engine", ["torch", *QUICK])
def test_layout_of_the_input_does_not_matter(float32: Program, data: list[Tensor], engine: str):
    channels_last = data[0].to(memory_format=torch.channels_last)
    assert noise_db(float32(data[0]), compile(float32, engine)(channels_last)) > 80


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
@pytest.mark.parametrize("method", ["fp32", "dynamic", "static"])
def test_inputs_and_outputs_keep_their_order(engine: str, method: str):
    inputs = list(zip(batches(6), batches(4), strict=True))
    two = capture(randomized(TwoInputs()), tuple(tensor[:1] for tensor in inputs[0]))
    many = capture(randomized(ManyOutputs()), batches()[0])
    for program, arguments in ((two, inputs), (many, [(batch,) for batch in batches()])):
        quantized = quantize(program, method, calibration=arguments, target=engine)
        assert_parity(program, quantized, compile(quantized, engine, threads=1), arguments)


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "linear without bias": (lambda: nn.Linear(4, 4, bias=False), (4,)),
    "lstm": (lambda: Recurrent(nn.LSTM), (2, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (2, 6)),
    "transformer": (Transformer, (5, 8)),
    # What the pooled values of ReLU do to a range chosen at run time: it has to hold zero, and they do not.
    "positive": (ManyOutputs, (3, 16, 16)),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
@pytest.mark.parametrize("layer", LAYERS)
def test_dynamic_is_no_further_from_float32_than_the_simulation(engine: str, layer: str):
    make, shape = LAYERS[layer]
    data = batches(*shape)
    program = capture(randomized(make()), data[0])
    quantized = quantize(program, "dynamic", target=engine)
    runner = compile(quantized, engine, threads=1)
    for batch in data:
        simulated, computed = (noise_db(program(batch), run(batch)) for run in (quantized, runner))
        assert computed >= simulated - 1.0  # of few values, each may fall on the other side of a rounding


SMALL = {
    "conv": (lambda: nn.Conv2d(3, 4, 3), (3, 8, 8)),
    "conv and relu": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8)),
    "linear": (lambda: nn.Linear(4, 4), (4,)),
    "transposed conv": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (3, 8, 8)),
    "nothing to quantize": (nn.ReLU, (4,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_single_layers(engine: str, method: str):
    for make, shape in SMALL.values():
        data = batches(*shape)
        program = capture(make(), data[0])
        quantized = quantize(program, method, calibration=data, target=engine)
        runner = compile(quantized, engine, threads=1)
        assert (
            noise_db(program(data[0]), runner(data[0]))
            >= min(noise_db(program(data[0]), quantized(data[0])), 60) - 1
        )


class Wide(nn.Module):
    """Convolutions and a linear layer of many weights; (N, 8, 8, 8) to (N, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(8, 64, 3), nn.Conv2d(64, 64, 3), nn.Linear(1024, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
def test_weights_of_four_bits_take_four_in_the_file_and_run_in_integers(
    engine: str, monkeypatch: pytest.MonkeyPatch
):
    data = batches(8, 8, 8)
    program = capture(randomized(Wide()), data[0])
    options = Options(weight_bits=4, rounding="nearest", processor="vnni")
    quantized = quantize(program, calibration=data, target=engine, options=options)
    runner = compile(quantized, engine, threads=1)
    weights = sum(tensor.numel() for tensor in program.module.parameters() if tensor.dim() > 1)
    assert on_disk(runner.artefact) < weights // 2 + 30_000
    assert integers(quantized, runner) == Integers(1.0, ())
    with monkeypatch.context() as patch:
        for module in ("openvino.weights", "onnxruntime.rewrites"):
            patch.setattr(f"zeropoint.engines.{module}.WORTH_HALVING", 1 << 40)
        whole = compile(quantized, engine, threads=1)
    assert on_disk(whole.artefact) - on_disk(runner.artefact) > 0.45 * weights
    assert torch.equal(runner(data[0]), whole(data[0]))


def test_artefact_is_written_where_it_is_asked_for(float32: Program, tmp_path):
    runner = compile(float32, "onnxruntime", path=tmp_path / "deep" / "m", threads=1)
    assert runner.artefact == tmp_path / "deep" / "m.onnx"
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["m.onnx"]


def test_every_compilation_has_an_artefact_of_its_own(float32: Program):
    assert compile(float32, "openvino").artefact != compile(float32, "openvino").artefact


def test_what_an_engine_cannot_run_is_one_line():
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(
        InputError, match=r"^openvino cannot run this fp32 Program: it has no aten.special_bessel_j0; "
    ):
        compile(capture(Bessel(), torch.randn(2, 4)), "openvino")


def test_one_tensor_may_be_several_outputs():
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            y, at = torch.relu(x), x.argmax(1)
            return y, y.detach(), at, at

    x = torch.randn(2, 4)
    found = compile(capture(Twice(), x), "openvino")(x)
    assert len(found) == 4
    assert all(torch.equal(*pair) for pair in zip(found, Twice()(x), strict=True))


def test_bf16_where_the_processor_has_it(float32: Program, data: list[Tensor]):
    if reason := engines.find("openvino").unsupported("bf16"):
        pytest.skip(reason)
    program = quantize(float32, "bf16")
    assert 35 < noise_db(float32(data[0]), compile(program, "openvino")(data[0])) < 80


def test_bf16_where_the_engine_has_it_not(float32: Program):
    with pytest.raises(InputError, match="onnxruntime cannot run bf16: "):
        compile(quantize(float32, "bf16"), "onnxruntime")


@pytest.mark.parametrize(
    ("engine", "settings", "line"),
    [
        (
            "onnxruntime",
            {"activation_bits": 4},
            "onnxruntime cannot run dynamic W8A4: engines quantize to 8 bits at run time; no engine can",
        ),
        (
            "openvino",
            {"weight_bits": 4, "activation_bits": 6},
            "openvino cannot run dynamic W4A6: engines quantize to 8 bits at run time; no engine can",
        ),
        (
            "onnxruntime",
            {"weight_symmetric": False},
            "onnxruntime cannot run dynamic W8A8: it needs symmetric weights there; openvino can",
        ),
        (
            "torch",
            {"activation_symmetric": True},
            "torch cannot run dynamic W8A8: ranges that are found at run time are affine; no engine can",
        ),
    ],
)
def test_what_an_engine_cannot_run_is_refused_before_any_work(
    float32: Program, engine: str, settings: dict[str, object], line: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("zeropoint.methods.dynamic", lambda *_: pytest.fail("work was begun"))
    options = Options(**settings)  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        quantize(float32, "dynamic", target=engine, options=options)
    assert str(caught.value) == line
    assert engines.unsupported(engine, "dynamic", options) == line.partition(": ")[2]
    assert engines.unsupported(engine, "weight-only", options) is None
    assert engines.unsupported(engine, "dynamic", Options()) is None


def test_a_program_of_another_target_is_refused_by_its_bits(float32: Program):
    program = quantize(float32, "dynamic", target=ADDS_INSIDE, options=Options(activation_bits=4))
    with pytest.raises(InputError, match=r"^openvino cannot run dynamic: engines quantize to 8 bits at"):
        compile(program, "openvino")


def test_affine_weights_of_another_target_are_refused_by_torch(float32: Program, data: list[Tensor]):
    options = Options(weight_symmetric=False, rounding="nearest")
    with pytest.raises(InputError, match=r"^torch cannot run static W8A8: .*; onnxruntime and openvino can$"):
        quantize(float32, calibration=data, target="torch", options=options)
    program = quantize(float32, calibration=data, target=ADDS_INSIDE, options=options)
    with pytest.raises(InputError, match="int8 kernels are wrong for affine weights; quantize for the torch"):
        compile(program, "torch")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_input_of_another_size_names_the_axis_that_was_fixed(engine):
    program = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), torch.randn(2, 3, 8, 8))
    runner = compile(program, engine, threads=1)
    assert runner(torch.randn(5, 3, 8, 8)).shape == (5, 4, 1, 1)
    with pytest.raises(InputError, match=r"shape \(2, 3, 8, 9\); .*\(any, 3, 8, 8\); axis 3 was fixed"):
        runner(torch.randn(2, 3, 8, 9))
    with pytest.raises(
        InputError, match=r"input 1 has shape \(3, 8, 8\); the model takes \(any, 3, 8, 8\): "
    ):
        runner(torch.randn(3, 8, 8))
    with pytest.raises(InputError, match="inputs are input: too many positional arguments"):
        runner(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))
