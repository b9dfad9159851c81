"""Readers of a weight, axes of channels, groups of a shuffle, height and width: none for another."""

import copy

import pytest
import torch
from networks import ADDS_INSIDE, Function, options, randomized, round_to_nearest, sqnr
from torch import Tensor, nn

from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE, aten, weighted
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.passes.fold import fold_affine
from zeropoint.passes.gptq import gptq
from zeropoint.passes.shuffles import fold_shuffles
from zeropoint.targets.recipe import Row


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers(program: Program) -> list[tuple[object, object]]:
    """The input and the weight of each layer."""
    found = []
    for node in program.module.graph.nodes:
        if description := weighted(node):
            found.append((node.args[description.input], node.args[description.weight]))
    return found


def test_every_reader_of_a_weight_reads_its_quantizer():
    model = Function(
        lambda parts, x: parts[1](parts[0](parts[0](x).relu()) - x), nn.Linear(6, 6), nn.Linear(6, 6)
    )
    model.parts[1].weight = model.parts[0].weight
    data = [seeded(16, 6)]
    quantized = round_to_nearest(
        capture(randomized(model), data[0]), ADDS_INSIDE, data, options(processor="vnni")
    )
    read = layers(quantized)
    assert len(read) == 3
    assert all(weight.target in FAKE_QUANTIZE for _, weight in read)
    assert len({weight.name for _, weight in read}) == 1  # one quantizer for all three
    assert all(source.target in FAKE_QUANTIZE for source, _ in read)


def test_a_relu_stays_where_its_quantizer_reaches_below_zero():
    model = Function(lambda parts, x: parts[1](parts[0](x).relu()), nn.Linear(6, 8), nn.Linear(8, 4))
    data = [seeded(64, 6)]
    program = capture(randomized(model), data[0])
    chosen = options(activation_symmetric=True, processor="vnni")
    quantized = round_to_nearest(program, ADDS_INSIDE, data, chosen)
    assert [node.target for node in quantized.module.graph.nodes].count(aten.relu.default) == 1
    assert sqnr(program(data[0]), quantized(data[0])) > 30


@pytest.mark.parametrize(("groups", "scales"), [(1, 6), (2, 3)])
def test_scales_of_a_transposed_convolution_lie_along_its_outputs(groups: int, scales: int):
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    program = capture(randomized(nn.Sequential(layer)), seeded(2, 4, 5, 7))
    chosen = options(processor="vnni")
    quantized = round_to_nearest(program, ADDS_INSIDE, [seeded(8, 4, 5, 7)], chosen)
    (found,) = [one for one in quantizers(quantized.module) if one.is_weight]
    weight = layer.weight.detach()  # (inputs, outputs of a group, height, width)
    if len(found.scale) == scales:
        assert found.axis == 1
        torch.testing.assert_close(found.scale, weight.abs().amax((0, 2, 3)) / 127)
    else:  # a scale for all is right for any number of groups
        assert groups > 1
        torch.testing.assert_close(found.scale, weight.abs().amax().reshape(1) / 127)


class Shuffled(nn.Module):
    """Two layers of nine channels together, shuffled in groups of another size than their number."""

    def __init__(self, groups: int, is_operator: bool) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(12, 5, 1)
        self.groups, self.is_operator = groups, is_operator

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.one(x), self.two(x).relu()], 1)
        if self.is_operator:
            return self.last(nn.functional.channel_shuffle(x, self.groups))
        n, c, h, w = x.shape
        return self.last(x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w))


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
@pytest.mark.parametrize("is_operator", [True, False])
def test_groups_of_a_shuffle_are_not_its_channels_by_group(groups: int, is_operator: bool):
    model, x = randomized(Shuffled(groups, is_operator)), seeded(2, 3, 4, 6)
    folded = fold_shuffles(capture(model, x))
    left = {node.target for node in folded.module.graph.nodes}
    assert not left & {aten.channel_shuffle.default, aten.transpose.int}
    expected = copy.deepcopy(model).double()(seeded(3, 3, 4, 6, seed=1).double())
    torch.testing.assert_close(folded(seeded(3, 3, 4, 6, seed=1)).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 3, stride=(2, 1), padding=(1, 0)),
        nn.Conv2d(3, 6, (2, 3), dilation=(1, 2), padding=(0, 2)),
        nn.Conv2d(4, 6, (3, 2), groups=2),
    ],
    ids=["strided", "dilated", "grouped"],
)
def test_fitting_on_images_that_are_not_square(layer: nn.Conv2d):
    """At three bits fitting to smooth images gains where the kernel's places are told apart."""
    channels = layer.in_channels

    def smooth(seed: int) -> Tensor:
        """Images of random walks, longer along rows than along columns."""
        noise = seeded(16, channels, 9, 20, seed=seed)
        return noise.cumsum(3) + 2 * noise.flip(0).cumsum(2)

    program = capture(randomized(nn.Sequential(layer)), smooth(0)[:2])
    chosen = options(recipe=(Row("*", weight_bits=3),), processor="vnni")
    rounded = round_to_nearest(program, ADDS_INSIDE, [smooth(0)], chosen)
    fitted = gptq(rounded, [smooth(0)])
    x = smooth(0)  # whose walks do not leave the ranges
    before, after = (sqnr(program(x), one(x)) for one in (rounded, fitted))
    assert after > before + 1.0


def test_folding_for_one_layer_leaves_another_that_has_its_weight_alone():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Conv1d(3, 3, 1), nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.norm(self.one(x)), self.two(x)

    model, x = randomized(Two()), seeded(2, 3, 5)
    with torch.no_grad():
        model.norm.running_var.fill_(4.0)
        model.norm.weight.fill_(3.0)
    folded = fold_affine(capture(model, x))
    weights = [folded.module.get_parameter(str(weight.target)) for _, weight in layers(folded)]
    torch.testing.assert_close(weights[0], model.one.weight * 1.5, rtol=1e-5, atol=1e-6)
    assert torch.equal(weights[1], model.one.weight)
