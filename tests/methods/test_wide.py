"""Activations of more than eight bits: rounded in simulation, float on every engine, and said to be."""

import numpy as np
import pytest
import torch
from mixed import Mixed, Transformer, batches, noise_db
from networks import ADDS_INSIDE, images, options, randomized, residual, sqnr, static
from torch import nn

from zeropoint.engines import compile
from zeropoint.engines import target as rules
from zeropoint.graph.capture import capture
from zeropoint.graph.program import load
from zeropoint.graph.quantizers import drop_wide, is_wide, quantizers
from zeropoint.measure.integers import Integers, integers
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options
from zeropoint.targets.placement import place_static

QUICK = ("openvino", "onnxruntime")


def test_sixteen_bits_by_hand():
    model = nn.Linear(4, 2, bias=False)
    x = torch.tensor([[0.1, -0.7, 1.3, 0.2], [2.1, 0.33, -1.9, 0.5]])
    program = static(capture(model, x), ADDS_INSIDE, [x], options(activation_bits=16))
    weight = model.weight.detach().double().numpy()
    scales = np.abs(weight).max(1, keepdims=True) / 127
    step = (2.1 + 1.9) / 65535
    zero_point = np.rint(1.9 / step)
    levels = np.clip(np.rint(x.double().numpy() / step) + zero_point, 0, 65535) - zero_point
    expected = (levels * step) @ (np.rint(weight / scales) * scales).T
    assert program(x).numpy() == pytest.approx(expected, abs=1e-6)
    (found,) = [quantizer for quantizer in quantizers(program.module) if not quantizer.is_weight]
    assert (found.scheme.bits, found.scheme.qmax, program.activation_bits) == (16, 65535, 16)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_more_bits_are_nearer_to_float_and_saved(rounding: str, tmp_path):
    program, data = residual(), [images(8)]
    found = [
        sqnr(
            program(images()),
            static(program, ADDS_INSIDE, data, Options(activation_bits=bits, rounding=rounding))(images()),
        )
        for bits in (8, 12, 16)
    ]
    assert found[1] > found[0]
    assert found[2] > found[0]
    sixteen = static(program, ADDS_INSIDE, data, Options(activation_bits=16, rounding=rounding))
    sixteen.save(tmp_path / "m.pt2")
    assert torch.equal(load(tmp_path / "m.pt2")(images()), sixteen(images()))


def test_dropping_them_leaves_the_others():
    program = static(residual(), ADDS_INSIDE, [images()], options(activation16=("inner",)))
    module = program.module
    wide = [quantizer for quantizer in quantizers(module) if is_wide(quantizer.node)]
    others = [quantizer.node for quantizer in quantizers(module) if not is_wide(quantizer.node)]
    assert wide
    drop_wide(module)
    assert [quantizer.node for quantizer in quantizers(module)] == others


def test_named_modules_get_sixteen_bits_in_and_out():
    def bits(*names: str) -> dict[tuple[str, str], int]:
        placement = place_static(residual().module, ADDS_INSIDE, options(activation16=names))
        return {(edge.source, edge.user): edge.scheme.bits for edge in placement.edges}

    plain = bits()
    assert set(plain.values()) == {8}
    inner = bits("inner")
    assert inner.keys() == plain.keys()
    assert {edge for edge, number in inner.items() if number == 16} == {
        edge for edge in plain if "conv2d_1" in edge
    }
    # The pooling moves what the head reads: one value, so one grid for all of its way.
    head = bits("head")
    assert {number for (source, user), number in head.items() if user in ("linear", "max_pool2d")} == {16}
    assert {number for (_, user), number in head.items() if user.startswith("conv")} == {8}


def test_a_layer_norm_gives_sixteen_bits_to_what_reads_it():
    program = capture(randomized(Transformer()), batches(5, 8)[0])
    placement = place_static(program.module, rules("onnxruntime"), options(activation16=("*norm1",)))
    nodes = {node.name: node for node in program.module.graph.nodes}
    by_bits = {edge.user for edge in placement.edges if edge.scheme.bits == 16}
    assert by_bits
    assert all("layer_norm" in edge.source for edge in placement.edges if edge.scheme.bits == 16)
    assert all(nodes[name].op == "call_function" for name in by_bits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "bits"),
    [
        ("openvino", "W8A16"),
        ("onnxruntime", "W8A16"),
        ("onnxruntime", "W4A16"),
        ("torch", "W4A16"),
    ],
)
def test_engines_compute_on_them_in_float(engine: str, bits: str):
    data = batches()
    program = capture(randomized(Mixed()), data[0][:1])
    chosen = Options(rounding="nearest").at(bits)
    quantized = quantize(program, "static", calibration=data, target=engine, options=chosen)
    runner = compile(quantized, engine, threads=1)
    assert noise_db(quantized(data[0]), runner(data[0])) > 65
    assert integers(quantized, runner) == Integers(0.0, ())


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
def test_the_other_layers_stay_integers(engine: str):
    data = batches()
    program = capture(randomized(Mixed()), data[0][:1])
    shares = {}
    for named in ((), ("inner.*",)):
        chosen = Options(rounding="nearest", activation16=named)
        quantized = quantize(program, "static", calibration=data, target=engine, options=chosen)
        runner = compile(quantized, engine, threads=1)
        assert (
            noise_db(program(data[0]), runner(data[0])) > noise_db(program(data[0]), quantized(data[0])) - 1
        )
        shares[named] = integers(quantized, runner).share
    assert 0 < shares["inner.*",] < shares[()] - 0.3
