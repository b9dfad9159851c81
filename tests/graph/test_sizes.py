"""Free sizes: what stays free and what is fixed, said why, and the same numbers at every size."""

import dataclasses
import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from networks import Attention, Branching, Function, Pooled, options, randomized, sqnr
from torch import Tensor, nn

from zeropoint.engines import compile
from zeropoint.engines.fixed import BATCH, SHAPES, sized
from zeropoint.errors import InputError, InputWarning
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program, load
from zeropoint.graph.sizes import Axis, check_inputs, has_free_sizes, input_shapes, keeping_bounds, misfit
from zeropoint.quantization import quantize

ANY = Axis(0, math.inf)
Inputs = tuple[Tensor, ...]


def pictures(*sizes: tuple[int, int]) -> list[Inputs]:
    return [(torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0)),) for size in sizes]


def sentences(*lengths: int) -> list[Inputs]:
    return [(torch.arange(3 * n).reshape(3, n) % 50, torch.ones(3, n)) for n in lengths]


NETWORKS = {
    "images": (Pooled, pictures((16, 16), (27, 22), (8, 40))),
    "tokens": (Attention, sentences(7, 12, 32)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def free(request: pytest.FixtureRequest) -> tuple[nn.Module, Program, list[Inputs]]:
    """A network, its Program of free sizes, and inputs of several."""
    make, inputs = NETWORKS[request.param]
    network = randomized(make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return network, capture(network, inputs[0], free_sizes=True), inputs


def shapes(program: Program) -> list[str]:
    return [" × ".join(map(str, shape)) for shape in input_shapes(program.module)]


@pytest.mark.slow
def test_every_size_computes_what_the_model_does(free, tmp_path: Path):
    network, program, inputs = free
    program.save(tmp_path / "m.pt2")
    loaded = load(tmp_path / "m.pt2")
    assert shapes(loaded) == shapes(program)
    for example in inputs:
        for one in (example, tuple(tensor[:1] for tensor in example)):
            with torch.no_grad():
                expected = network(*one)
            for run in (program, loaded):
                torch.testing.assert_close(run(*one), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("method", ["fp32", "static"])
def test_every_engine_is_right_at_every_size(free, engine: str, method: str, tmp_path: Path):
    _, program, inputs = free
    if method == "static":
        calibration = [(example, None) for example in inputs]
        program = quantize(program, calibration=calibration, target=engine, options=options())
        program.save(tmp_path / "m.pt2")
        program = load(tmp_path / "m.pt2")
    runner = compile(program, engine, threads=1)
    for example in inputs:
        expected = program(*example)
        assert sqnr(expected, runner(*example)) > (40 if method == "static" else 100)


def test_fitting_and_distilling_take_several_sizes(monkeypatch: pytest.MonkeyPatch):
    from zeropoint.passes import distil

    monkeypatch.setattr(distil, "MANY_BITS", dataclasses.replace(distil.MANY_BITS, least=2, most=2))
    inputs = pictures((16, 16), (16, 16), (16, 16), (20, 24), (20, 24))
    program = capture(randomized(Pooled()), inputs[0], free_sizes=True)
    quantized = quantize(program, "static-best", calibration=inputs, options=options(rounding="gptq"))
    for example in inputs:
        assert sqnr(program(*example), quantized(*example)) > 25


def test_what_the_model_fixes_is_named_with_the_reason():
    flat = Function(lambda parts, x: parts[1](parts[0](x).flatten(1)), nn.Conv2d(3, 4, 3), nn.Linear(144, 5))
    fixed = {1: (3, "parts.0"), 2: (8, "parts.1"), 3: (8, "parts.1")}
    line = "; ".join(
        f"axis {axis} of input 1 stays {size}: {name} takes no other" for axis, (size, name) in fixed.items()
    )
    with pytest.warns(InputWarning) as told:
        program = capture(flat, torch.randn(2, 3, 8, 8), free_sizes=True)
    assert [str(one.message) for one in told] == [line]
    assert shapes(program) == ["any × 3 × 8 × 8"]
    with pytest.warns(InputWarning, match="axis 1 of input 1 stays 1: 1 is a constant to the exporter"):
        capture(Function(lambda _, x: x * 2), torch.randn(2, 1), free_sizes=True)
    with pytest.warns(InputWarning, match="axis 1 of input 1 stays 6: the model's code depends on it"):
        capture(Branching(), torch.randn(2, 6), free_sizes=True)


def test_sizes_have_the_bounds_that_the_model_gives_them():
    tokens = capture(randomized(Attention()), sentences(7)[0], free_sizes=True)
    assert shapes(tokens) == ["any × 0 to 32"] * 2
    with pytest.raises(InputError, match=r"shape \(3, 33\); the model takes \(any, 0 to 32\)$"):
        check_inputs(tokens.module, sentences(33)[0], "batch 1")
    double = Function(lambda _, x: x * 2 if x.shape[1] > 4 else x)
    assert shapes(capture(double, torch.randn(2, 8), free_sizes=True)) == ["any × 5 or more"]


def test_multiples_and_equal_sizes_stay_free():
    halves = Function(lambda _, x: x.reshape(*x.shape[:2], x.shape[2] // 2, 2).sum(3) + x.shape[1])
    program = capture(halves, torch.randn(2, 6, 8), free_sizes=True)
    assert shapes(program) == ["any × any × any"]
    assert program(torch.ones(1, 4, 6)).flatten().tolist() == [6.0] * 12
    square = capture(Function(lambda _, x: x + x.transpose(1, 2)), torch.randn(2, 5, 5), free_sizes=True)
    assert has_free_sizes(square.module)


@pytest.mark.slow
def test_without_the_flag_sizes_are_fixed_and_the_message_says_how_to_free_them():
    program = capture(randomized(Pooled()), pictures((16, 16))[0])
    assert shapes(program) == ["any × 3 × 16 × 16"]
    assert not has_free_sizes(program.module)
    mend = r"capture it on such inputs, or for any size with free_sizes=True \(--free-sizes\)"
    mend = f"axis 3 was fixed at capture: {mend}"
    with pytest.raises(InputError, match=mend):
        compile(program, "onnxruntime", threads=1)(torch.randn(1, 3, 16, 17))
    with pytest.raises(InputError, match=f"^batch 1 has shape .*{mend}$"):
        check_inputs(program.module, (torch.randn(1, 3, 16, 17),), "batch 1")


@pytest.mark.parametrize(
    ("sizes", "mend"),
    [
        ((7, 4, 9), "; axis 1 is fixed by the model itself"),
        ((7, 3, 4), ""),
        ((7, 3), ": capture it on such inputs"),
    ],
)
def test_misfit(sizes: tuple[int, ...], mend: str):
    shape = (ANY, Axis(3, 3), Axis(5, math.inf))
    assert not misfit(torch.zeros(7, 3, 9), shape)
    assert (
        misfit(torch.zeros(sizes), shape) == f"has shape {sizes}; the model takes (any, 3, 5 or more){mend}"
    )


def test_sizes_of_an_item_are_those_of_the_example():
    program = capture(randomized(Pooled()), pictures((16, 20))[0], free_sizes=True)
    (conv,) = (node for node in program.module.graph.nodes if node.name == "conv2d")
    assert fx.item_sizes(conv) == [1, 8, 8, 10]
    assert fx.item_bytes(conv) == 8 * 8 * 10 * 4


def test_pooling_that_onnx_would_do_wrong_is_refused():
    pools = Function(lambda parts, x: parts[0](x), nn.AdaptiveAvgPool2d(2))
    with pytest.raises(InputError, match=r"ONNX cannot pool any size to \[2, 2\], as parts.0 does"):
        compile(capture(pools, torch.randn(2, 3, 7, 7), free_sizes=True), "onnxruntime")
    fixed = capture(pools, torch.randn(2, 3, 7, 7))
    one = torch.randn(1, 3, 7, 7)
    torch.testing.assert_close(compile(fixed, "onnxruntime", threads=1)(one), fixed(one))


def test_a_compiled_package_says_which_axis_is_fixed():
    metadata = {BATCH: "2", SHAPES: json.dumps([[2, 3, 16, 16]])}
    call = sized(lambda x: x, metadata, "this artefact")
    call(torch.zeros(5, 3, 16, 16))
    with pytest.raises(
        InputError, match="one size, here 16 along axis 3: capture on such inputs and compile"
    ):
        call(torch.zeros(2, 3, 16, 17))
    with pytest.raises(InputError, match="here 2 along axis 0"):
        sized(lambda x: x, metadata | {BATCH: ""}, "this artefact")(torch.zeros(5, 3, 16, 16))
    sized(lambda x: x, {}, "this artefact")(torch.zeros(1))  # of a package that does not tell


@pytest.mark.slow
def test_the_torch_engine_runs_the_size_of_the_example():
    example, other = pictures((16, 16), (20, 24))
    program = capture(randomized(Pooled()), example, free_sizes=True)
    for one in (example, other):
        torch.testing.assert_close(compile(program, "torch", threads=1)(*one), program(*one))
    quantized = quantize(program, calibration=[example], target="torch", options=options())
    runner = compile(quantized, "torch", threads=1)
    assert sqnr(quantized(*example), runner(*example)) > 40
    with pytest.raises(InputError, match="here 16 along axis 2"):
        runner(*other)


def test_guards_of_lowering_are_no_bounds():
    program = capture(randomized(Pooled()), torch.randn(2, 3, 16, 16))
    (source,) = program.module.graph.find_nodes(op="placeholder")
    with keeping_bounds(program.module):
        assert source.meta["val"].shape[0] < 16  # which the exporter takes for a bound
        assert input_shapes(program.module)[0][0] == Axis(0, 15)
    assert input_shapes(program.module)[0][0] == ANY
