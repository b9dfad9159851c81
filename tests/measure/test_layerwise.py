"""The pass through both networks, and what a run folder keeps of it, against arithmetic of other code."""

import numpy as np
import pytest
import torch
from networks import ADDS_INSIDE, images, options, randomized, residual
from torch import Tensor, nn

from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure import layers
from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.measure.layerwise import decibels, layerwise
from zeropoint.numerics.ranges import Statistics
from zeropoint.passes.blocks import without_quantizers
from zeropoint.quantization import quantize

DATA = [images(16, seed) for seed in range(3)]


def line(width: int = 1) -> tuple[nn.Module, list[Tensor]]:
    """Linear layers alone: what first order says is all there is."""
    model = randomized(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, width)))
    return model, [torch.randn(16, 6, generator=torch.Generator().manual_seed(s)) for s in range(3)]


def static(model: nn.Module, data: list[Tensor], **chosen: object) -> Program:
    program = capture(model, data[0][:2])
    return quantize(program, "static", calibration=data, target=ADDS_INSIDE, options=options(**chosen))


def alone(program: Program, name: str) -> nn.Module:
    """The Program with the quantizers in front of one layer only, and that layer's own bias."""
    module = fx.copy(program.module)
    layer = next(node for node in module.graph.nodes if node.name == name)
    for quantizer in list(quantizers(module)):
        for user in list(quantizer.node.users):
            if user is not layer:
                user.replace_input_with(quantizer.node, quantizer.source)
    module.recompile()
    return module


def test_errors_are_those_of_quantizing_one_layer_and_all_before_it():
    program = static(*line(), weight_bits=4, end_bits=4)
    found = layerwise(program, line()[1], 48, sensitivity=True)
    floats, inputs = without_quantizers(program), torch.cat(line()[1])
    assert (found.items, len(found.seen)) == (48, 3)
    names = [seen.node.name for seen in found.seen]
    expected: dict[str, dict[str, Tensor]] = {"float": {}, "all": {}}
    for key, module in (("float", floats), ("all", program.module)):
        keep = lambda node, value, key=key: expected[key].update({node.name: value.detach()})  # noqa: E731
        fx.Watching(module, names, keep).run(inputs)
    for seen in found.seen:
        name = seen.node.name
        wanted = expected["float"][name].detach().double()
        assert seen.signal == pytest.approx(float(wanted.square().sum()), rel=1e-5)
        assert seen.accumulated == pytest.approx(
            float((expected["all"][name] - wanted).square().sum()), rel=1e-3
        )
        one: dict[str, Tensor] = {}
        keep = lambda node, value, one=one: one.update({node.name: value})  # noqa: E731
        outputs = fx.Watching(alone(program, name), [name], keep).run(inputs)
        assert seen.local == pytest.approx(float((one[name].detach() - wanted).square().sum()), rel=1e-3)
        after = (outputs - expected["float"][names[-1]]).double().square().sum()
        assert seen.at_outputs == pytest.approx(float(after.detach()), rel=1e-3)  # of one output, exact
    meter = FidelityMeter()
    meter.add([expected["float"][names[-1]]], [expected["all"][names[-1]]])
    assert decibels(found.signal, found.noise) == pytest.approx(meter.result().sqnr_db, abs=1e-3)


def test_projections_tell_the_error_at_several_outputs():
    model, data = line(width=7)
    program = static(model, data, weight_bits=4, end_bits=4)
    found = layerwise(program, data, 48, sensitivity=True)
    wanted = without_quantizers(program)(torch.cat(data))
    for seen in found.seen:
        error = (alone(program, seen.node.name)(torch.cat(data)) - wanted).detach().double().square().sum()
        assert abs(decibels(float(error), seen.at_outputs) or 0.0) < 2.0  # 96 samples


def test_the_reference_has_the_weights_from_before_they_were_fitted():
    program = residual()
    fitted = static_of(program, rounding="gptq", weight_bits=3, end_bits=3)
    found = layerwise(fitted, DATA, 48)
    head = program.module.get_parameter("head.weight").detach()
    torch.testing.assert_close(found.float_weights["head.weight"], head)
    assert not torch.equal(fitted.module.get_parameter("head.weight"), head)
    assert all(seen.local > 0 for seen in found.seen)


def static_of(program: Program, **chosen: object) -> Program:
    return quantize(program, "static", calibration=DATA, target=ADDS_INSIDE, options=options(**chosen))


@pytest.mark.parametrize("method", ["dynamic", "weight-only"])
def test_methods_that_leave_activations_to_the_engine(method: str):
    quantized = quantize(residual(), method, calibration=DATA, target=ADDS_INSIDE, options=options())
    found = layerwise(quantized, DATA, 20)
    assert found.items == 20
    assert {fx.module_name(seen.node) for seen in found.seen} >= {"head"}
    assert all(not seen.operands and seen.weight is not None and seen.local > 0 for seen in found.seen)


def test_no_data_is_told():
    with pytest.raises(InputError, match="no data to look at layers on"):
        layerwise(static_of(residual()), [], 8)


def test_distributions_by_numpy():
    program = static_of(residual(), ranges="mse", activation_bits=4, end_bits=4)
    described = layers.describe(program, layerwise(program, DATA, 48))
    stem = described.layers[0]
    assert (stem.name, stem.operator, stem.macs) == ("stem", "conv2d", 4 * 3 * 9 * 64)
    pixels, weight = torch.cat(DATA).numpy(), program.module.get_parameter("stem.weight").detach().numpy()
    assert stem.input is not None
    assert stem.weight is not None
    assert (stem.input.low, stem.input.high) == (pixels.min(), pixels.max())
    assert sum(stem.input.counts) == pixels.size
    expected = np.histogram(pixels, layers.BINS, (pixels.min(), pixels.max()))[0]
    assert np.abs(np.cumsum(stem.input.counts) - np.cumsum(expected)).max() < 0.002 * pixels.size
    (scale,), (zero_point,) = stem.input.scale, stem.input.zero_point
    levels = np.rint(pixels / scale) + zero_point
    assert stem.input.clipped == pytest.approx(np.mean((levels < 0) | (levels > 15)), abs=5e-4)
    assert stem.input.clipped > 0
    assert sum(stem.weight.counts) == weight.size
    by_numpy = [(channel.min(), channel.max()) for channel in weight]
    np.testing.assert_allclose(stem.weight.channels, by_numpy, atol=1e-6)
    assert stem.weight.clipped == 0


def test_constants_have_a_distribution():
    statistics = Statistics()
    statistics.add(torch.full((8,), 2.0), with_histogram=True)
    quantizer = next(one for one in quantizers(static_of(residual()).module) if not one.is_weight)
    assert sum(layers.of_activation(statistics, quantizer).counts) == 8


def test_saved_and_read_back(tmp_path):
    program = static_of(residual())
    described = layers.describe(program, layerwise(program, DATA, 8))
    layers.save(described, tmp_path)
    assert layers.load(tmp_path) == [described]
    (path,) = (tmp_path / "layers").iterdir()
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match=r"cannot read .*delete it and compare again"):
        layers.load(tmp_path)
    assert layers.load(tmp_path / "elsewhere") == []
