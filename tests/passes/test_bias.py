"""Analytic bias correction: expected values against sampled ones, and outputs nearer to float."""

import sys

import pytest
import torch
from networks import ADDS_INSIDE, Function, dynamic, options, randomized, sqnr, weight_only
from torch import Tensor, nn

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE_CHANNEL
from zeropoint.graph.program import Program
from zeropoint.passes.bias import _output, clamped_mean, correct_biases, expected_inputs
from zeropoint.passes.fold import fold_affine

SAMPLES = 20_000


@pytest.mark.parametrize("ends", [(None, None), (0.0, None), (0.0, 6.0), (-1.0, 1.0), (None, 0.5)])
def test_clamped_mean_is_that_of_samples(ends: tuple[float | None, float | None]):
    mean, deviation = (
        torch.tensor([-3.0, 0.0, 0.4, 5.0]).double(),
        torch.tensor([1.0, 0.5, 3.0, 2.0]).double(),
    )
    normal = torch.randn(400_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = normal * deviation + mean
    sampled = samples if ends == (None, None) else samples.clamp(*ends)
    torch.testing.assert_close(clamped_mean(mean, deviation, *ends), sampled.mean(0), rtol=0, atol=0.015)


def test_clamped_mean_of_a_constant_is_the_clamped_constant():
    constant = torch.tensor([-1.0, 0.0, 2.0, 7.0]).double()
    found = clamped_mean(constant, torch.zeros(4).double(), 0.0, 6.0)
    torch.testing.assert_close(found, constant.clamp(0, 6))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4, bias=False), (1, 6)),
        (nn.Conv1d(6, 4, 3, groups=2, bias=False), (1, 6, 3)),
        (nn.Conv2d(6, 4, (2, 3), bias=False), (1, 6, 2, 3)),
        (nn.Conv3d(6, 6, 2, groups=6, bias=False), (1, 6, 2, 2, 2)),
    ],
)
def test_the_output_to_a_constant_input_is_the_layers(layer: nn.Module, shape: tuple[int, ...]):
    mean = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25])
    constant = mean.reshape(1, 6, *[1] * (len(shape) - 2)).expand(shape)
    expected = layer.double()(constant.double()).flatten()
    torch.testing.assert_close(_output(layer.weight.double(), mean.double()), expected)


def normal_inputs(norm: nn.BatchNorm2d, count: int = SAMPLES) -> Tensor:
    """Inputs (count, channels, 2, 2) of which the batch norm has right statistics."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(count, norm.num_features, 2, 2, generator=generator)
    shape = (1, -1, 1, 1)
    return values * norm.running_var.sqrt().reshape(shape) + norm.running_mean.reshape(shape)


BEHIND_NORM = {
    "nothing": lambda parts, x: parts[1](parts[0](x)),
    "relu": lambda parts, x: parts[1](torch.relu(parts[0](x))),
    "relu6": lambda parts, x: parts[1](nn.functional.relu6(parts[0](x))),
    "sum": lambda parts, x: parts[1](torch.relu(parts[0](x)) + parts[0](x)),
    "mean": lambda parts, x: parts[2](torch.relu(parts[0](x)).mean((-1, -2))),
    "pooling": lambda parts, x: parts[2](nn.functional.adaptive_avg_pool2d(parts[0](x), 1).flatten(1)),
    "twice the same": lambda parts, x: parts[3](torch.cat([parts[0](x)] * 2, 1)),
    "cat": lambda parts, x: parts[3](torch.cat([parts[0](x), torch.relu(parts[0](x))], 1)),
}


def network(function) -> tuple[Program, Tensor]:
    """A batch norm and layers behind it, and inputs on which the batch norm gives its very distribution."""
    parts = [
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 2, groups=2, bias=False),
        nn.Linear(6, 5),
        nn.Conv2d(12, 4, 1),
    ]
    model = randomized(Function(function, *parts))
    nn.init.constant_(parts[0].bias, 1.0)
    return capture(model, torch.randn(2, 6, 2, 2)), normal_inputs(parts[0])


def rounded(program: Program, bits: int = 3) -> Program:
    return weight_only(program, ADDS_INSIDE, [], options(weight_bits=bits, end_bits=bits))


@pytest.mark.parametrize("between", BEHIND_NORM)
def test_mean_outputs_are_those_of_float(between: str):
    program, inputs = network(BEHIND_NORM[between])
    quantized = rounded(program, bits=2)
    corrected = correct_biases(quantized, program)
    means = [run(inputs).transpose(0, 1).flatten(1).mean(1) for run in (program, quantized, corrected)]
    expected, before, after = means
    assert (before - expected).abs().max() > 0.05
    torch.testing.assert_close(after, expected, rtol=0, atol=0.015)
    assert sum(node.target is FAKE_QUANTIZE_CHANNEL for node in corrected.module.graph.nodes) == 1
    assert quantized.module.state_dict().keys() <= corrected.module.state_dict().keys()


UNKNOWN = {
    "no batch norm": lambda parts, x: parts[1](torch.relu(x)),
    "another activation": lambda parts, x: parts[1](torch.tanh(parts[0](x))),
    "maximum": lambda parts, x: parts[1](nn.functional.max_pool2d(parts[0](x), 2, 1, 1)),
    "sum of what is not known": lambda parts, x: parts[1](parts[0](x) + x),
    "norm by what is computed": lambda parts, x: parts[1](
        nn.functional.batch_norm(
            x, parts[0].running_mean, parts[0].running_var, parts[0].weight * x.abs().mean()
        )
    ),
    "clamped sum": lambda parts, x: parts[1](torch.relu(parts[0](x) + parts[0](x))),
    "places": lambda parts, x: parts[4](parts[0](x).flatten(1)),
    "mean of channels": lambda parts, x: parts[5](parts[0](x).mean(1)),
}


@pytest.mark.parametrize("between", UNKNOWN)
def test_where_nothing_is_known_nothing_is_moved(between: str):
    parts = [nn.BatchNorm2d(6), nn.Conv2d(6, 4, 2), nn.Linear(6, 5), nn.Conv2d(12, 4, 1), nn.Linear(24, 5)]
    model = randomized(Function(UNKNOWN[between], *parts, nn.Linear(2, 5)))
    program = capture(model, torch.randn(2, 6, 2, 2))
    assert not expected_inputs(program)
    quantized = rounded(program)
    assert (
        correct_biases(quantized, program).module.state_dict().keys() == quantized.module.state_dict().keys()
    )


def test_a_shared_bias_is_moved_for_each_layer_alone():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(torch.relu(self.norm(x))))

    program = capture(randomized(Shared()), torch.randn(2, 6))
    quantized = rounded(program)
    before = quantized.module.layer.bias.clone()
    corrected = correct_biases(quantized, program)
    assert torch.equal(corrected.module.layer.bias, before)
    assert list(expected_inputs(program)) == ["linear"]
    assert not torch.equal(corrected.module.linear__bias, before)


class Classifier(nn.Module):
    """Depthwise and pointwise convolutions with batch norms, as in MobileNet; (N, 3, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
        for _ in range(3):
            layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
            layers += [nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@pytest.fixture(scope="module")
def classifier() -> tuple[Program, Tensor]:
    """A network whose batch norms have the statistics of its data, as after training, and such data."""
    torch.manual_seed(0)
    model = Classifier()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.3, 0.5)
            norm.momentum = None
    with torch.no_grad():
        for _ in range(8):
            model.train()(torch.randn(64, 3, 8, 8))
    data = torch.randn(256, 3, 8, 8)
    return capture(model.eval(), data[:2]), data


def test_outputs_come_nearer_to_float_at_four_bits(classifier: tuple[Program, Tensor]):
    program, data = classifier
    quantized = rounded(program, bits=4)
    expected = program(data)
    before, after = (sqnr(expected, run(data)) for run in (quantized, correct_biases(quantized, program)))
    assert after > before + 2


def test_dynamic_quantization_has_its_biases_corrected(classifier: tuple[Program, Tensor], monkeypatch):
    program, data = classifier
    chosen = options(weight_bits=3)
    corrected = dynamic(program, ADDS_INSIDE, chosen)
    module = sys.modules["zeropoint.methods.dynamic"]
    monkeypatch.setattr(module, "correct_biases", lambda quantized, _: quantized)
    plain = dynamic(program, ADDS_INSIDE, chosen)
    expected = fold_affine(program)(data)
    assert sqnr(expected, corrected(data)) > sqnr(expected, plain(data)) + 1
