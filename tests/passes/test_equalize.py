import copy
import importlib

import pytest
import torch
from networks import images, round_to_nearest
from torch import nn
from torch.nn import functional as F

from zeropoint import Options
from zeropoint.engines import target
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import weighted
from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.passes import equalize as module_of
from zeropoint.passes import rounding_noise as noise_of
from zeropoint.passes.sensitivity import sensitivities

static = importlib.import_module("zeropoint.methods.static")  # the package names the function so


def equalize(*given, **chosen):
    return module_of.equalize(*given, **chosen).program


SPREAD = torch.logspace(-2, 0, 8)  # of the channels that a layer makes


class Residual(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(width, 4, 1)
        self.second.weight.data *= SPREAD.reshape(-1, 1, 1, 1)
        self.second.bias.data *= SPREAD
        self.last.weight.data /= SPREAD.reshape(1, -1, 1, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last((x + self.second(self.first(x).relu())).relu())


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 7), nn.Linear(8, 5)
        self.first.weight.data /= SPREAD

    def forward(self, x):
        x = self.norm(x)
        return self.first(x), self.second(x)


def mobile():
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 5, 1)
    )  # fmt: skip


def pooled():
    pools = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(), *pools, nn.Linear(8, 4))


class Joined(nn.Module):
    """Two branches whose outputs differ a hundredfold, joined and read by a layer that makes up for it."""

    def __init__(self):
        super().__init__()
        self.small, self.large, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(16, 4, 1)
        self.large.weight.data *= 100
        self.large.bias.data *= 100
        self.last.weight.data[:, 8:] /= 100

    def forward(self, x):
        return self.last(torch.cat([self.small(x).relu(), self.large(x).relu()], 1))


class Split(nn.Module):
    """A layer whose channels are read by two layers, half each, and by a third one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.one, self.other, self.both = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x).relu()
        one, other = x.chunk(2, 1)
        return self.one(one) + self.other(other) + self.both(x)


NETWORKS = {
    "joined": Joined,
    "split": Split,
    "two convolutions": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)),
    "groups": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)),
    "one dimension": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 3)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8), nn.ReLU(), nn.Linear(8, 4)),
    "pooled": pooled,
    "depthwise": mobile,
    "residual": Residual,
    "layer norm": Normed,
}


def spread(model):
    """The model with the first layer's channels of very different size."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and len(layer.weight) == 8:
            factor = SPREAD.reshape(-1, *[1] * (layer.weight.dim() - 1))
            layer.weight.data *= factor
            layer.bias.data *= SPREAD
            break
        if isinstance(layer, nn.LayerNorm):
            layer.weight.data *= SPREAD
    return model


def weights(program):
    return {name: value.clone() for name, value in program.module.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_what_they_were(name):
    torch.manual_seed(0)
    model = spread(NETWORKS[name]()).eval()
    before = copy.deepcopy(model.state_dict())
    data = [images(4, seed) for seed in range(3)]
    program = capture(model, data[0])
    equalized = equalize(program, data, Options())
    assert any(not torch.equal(value, weights(program)[key]) for key, value in weights(equalized).items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    expected = copy.deepcopy(model).double()(data[1].double())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for found, wanted in zip(equalized.flat(data[1]), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_channels_by_hand():
    """Ranges of 1 and 1/100 that weights of 1 and 100 read: with nothing to lose all become 1."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1, groups=2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.01]).reshape(2, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([1.0, 100.0]).reshape(2, 1, 1, 1))
    x = torch.rand(8, 2, 6, 6)
    x[0, :, 0, 0] = 1.0  # the end of the range
    equalized = equalize(capture(model, x), [x], Options())
    torch.testing.assert_close(weights(equalized)["0.weight"].flatten(), torch.ones(2))
    torch.testing.assert_close(weights(equalized)["2.weight"].flatten(), torch.ones(2))


def test_halves_of_a_join_that_differ_in_size_keep_their_bits():
    torch.manual_seed(0)
    model, data = Joined().eval(), [images(8, seed) for seed in range(4)]
    for engine in ("openvino", "onnxruntime", "torch"):
        program = round_to_nearest(capture(model, data[0]), target(engine), data, Options())
        meter = FidelityMeter()
        meter.add([model(data[1]).detach()], [program(data[1])])
        assert meter.result().sqnr_db > 30  # 11 with one grid for halves of different size


def test_fidelity_is_gained_where_channels_differ(monkeypatch):
    torch.manual_seed(0)
    model, data = spread(mobile()).eval(), [images(8, seed) for seed in range(4)]
    model[2].weight.data /= SPREAD.reshape(-1, 1, 1, 1)  # so that the small channels matter
    program = capture(model, data[0])

    def decibels():
        meter, quantized = FidelityMeter(), round_to_nearest(program, target("openvino"), data, Options())
        for batch in (images(8, seed) for seed in range(10, 14)):
            meter.add([model(batch).detach()], [quantized(batch)])
        return meter.result().sqnr_db

    with_it = decibels()
    monkeypatch.setattr(static, "equalize", lambda program, *_, **__: module_of.Equalized(program, 1.0))
    assert with_it > decibels() + 6


def test_skipped_layers_keep_their_weights():
    model, data = spread(mobile()).eval(), [images(4)]
    program = capture(model, data[0])
    equalized = weights(equalize(program, data, Options(skip=("2", "4"))))
    assert all(torch.equal(value, weights(program)[key]) for key, value in equalized.items())


def test_channels_that_reach_a_clip_are_not_scaled():
    torch.manual_seed(0)
    model, data = spread(mobile()).eval(), [images(8, seed) for seed in range(2)]
    model[0].bias.data[0] = 20.0
    program = capture(model, data[0])
    equalized = weights(equalize(program, data, Options()))["0.weight"]
    torch.testing.assert_close(equalized[0], model[0].weight[0])
    assert (equalized[1:4].abs() > 2 * model[0].weight[1:4].abs()).all()


class Shared(nn.Module):
    def __init__(self, returned):
        super().__init__()
        self.first, self.last, self.returned = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1), returned

    def forward(self, x):
        inner = self.first(x).relu()
        return (self.last(inner), inner) if self.returned else self.last(self.first(self.last(inner)).relu())


@pytest.mark.parametrize("returned", [True, False], ids=["value is an output", "weights are used twice"])
def test_what_others_use_is_left_alone(returned):
    model, data = spread(Shared(returned)).eval(), [images(4)]
    program = capture(model, data[0])
    equalized = equalize(program, data, Options())
    assert all(torch.equal(value, weights(program)[key]) for key, value in weights(equalized).items())


def test_dead_channel_gives_finite_weights():
    model, data = spread(mobile()).eval(), [images(4)]
    model[0].weight.data[3] = 0
    model[0].bias.data[3] = -1
    equalized = equalize(capture(model, data[0]), data, Options())
    assert all(value.isfinite().all() for value in weights(equalized).values())


def test_channels_dead_on_calibration_data_have_room():
    """Other inputs may wake them: a sixteenth of what is before the ReLU counts as its range."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(64, 6)
    model[0].weight.data *= SPREAD.reshape(-1, 1)
    model[0].bias.data *= SPREAD
    model[2].weight.data /= SPREAD
    dead = F.linear(data, model[0].weight.data)[:, 7].max() + 1e-3
    model[0].bias.data[7] = -dead
    scaled = weights(equalize(capture(model, data), [data], Options()))
    before = F.linear(data, scaled["0.weight"], scaled["0.bias"])
    torch.testing.assert_close(
        before[:, 7].amax() - before[:, 7].amin(), 16 * before.relu().max(), rtol=1e-2, atol=0
    )


def test_weights_alone():
    """Without activations to round, what counts is that inputs of a layer come with weights of one size."""
    torch.manual_seed(0)
    model, data = NETWORKS["two convolutions"]().eval(), [images(8)]
    model[2].weight.data *= SPREAD.reshape(1, -1, 1, 1)

    def ratio(weight):
        largest = weight.detach().abs().amax((0, 2, 3))
        return float(largest.max() / largest.min())

    equalized = equalize(capture(model, data[0]), data, Options(weight_bits=4), activations=False)
    assert ratio(weights(equalized)["2.weight"]) < ratio(model[2].weight) / 4


def test_functional_use_of_relu6():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x):
            return self.last(F.relu6(self.first(x)))

    model, data = spread(Net()).eval(), [images(4)]
    equalized = equalize(capture(model, data[0]), data, Options())
    torch.testing.assert_close(equalized(data[0]), model(data[0]), rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_fit_is_told_by_its_number():
    data = [*(images(1, seed) for seed in range(3)), torch.randn(1, 3, 9, 8)]
    with pytest.raises(InputError, match=r"calibration batch 4 has shape \(1, 3, 9, 8\)"):
        equalize(capture(mobile().eval(), data[0]), data, Options())


class Halves(nn.Module):
    """A convolution's output added to half of another's, which is split along places."""

    def __init__(self):
        super().__init__()
        self.whole, self.part, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        for layer in (self.whole, self.part):
            layer.weight.data *= SPREAD.reshape(-1, 1, 1, 1)

    def forward(self, x):
        return self.last(self.whole(x).chunk(2, 2)[0] + self.part(x[:, :, :4]))


def test_a_sum_with_a_part_of_a_split_along_places_stays_as_it_is():
    torch.manual_seed(0)
    program = capture(Halves().eval(), images(4))
    assert equalize(program, [images(4)], Options()) is program


def test_so_many_items_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    """A channel whose values are large in the eighth batch alone is scaled only if that is read."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1, groups=2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.01]).reshape(2, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([1.0, 100.0]).reshape(2, 1, 1, 1))
    x = torch.rand(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    x[0, :, 0, 0] = 1.0
    late = x.clone()
    late[0, 1, 0, 0] = 50.0
    program = capture(model, x)

    def scaled(batches: int) -> float:
        """The weights that read the channels, relative to each other: alike once the second one is scaled."""
        read = [x] * (batches - 1) + [late]
        weight = weights(equalize(program, read, Options()))["2.weight"].flatten()
        return float(weight[1].detach() / weight[0].detach())

    assert scaled(1) == scaled(8) != pytest.approx(1.0)
    assert scaled(9) == pytest.approx(1.0)  # of 72 items 64 are read
    monkeypatch.setattr(module_of, "WORK", 4 * 36 * 16)  # of which the network does 4 * 36 for an item
    assert scaled(3) == pytest.approx(1.0)
    assert scaled(2) != pytest.approx(1.0)
    monkeypatch.setattr(module_of, "WORK", 1)
    assert scaled(2) == pytest.approx(1.0)  # eight at least
    assert scaled(1) != pytest.approx(1.0)


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LAYERS = {
    "convolution": nn.Conv2d(48, 40, 3, bias=False),
    "groups": nn.Conv2d(64, 40, 3, groups=2, bias=False),
    "linear": nn.Linear(256, 128, bias=False),
}


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("name", LAYERS)
def test_noise_is_estimated_as_it_is_measured(name: str, granularity: str):
    """On inputs that are not correlated, with weights and inputs scaled against one another."""
    layer, bits = LAYERS[name], 5
    weight = white(*layer.weight.shape, seed=1) * torch.linspace(0.5, 2, len(layer.weight)).reshape(
        -1, *[1] * (layer.weight.dim() - 1)
    )
    inputs = 256 if name == "linear" else layer.in_channels
    spread = torch.linspace(0.1, 1.0, inputs)
    x = white(4, inputs, 12, 12, seed=2) * spread.reshape(-1, 1, 1)
    x = x.permute(0, 2, 3, 1).reshape(-1, inputs) if name == "linear" else x
    layer.weight.data = weight
    program = capture(layer, x[:1])
    module, axis = program.module, -1 if name == "linear" else 1
    node = next(one for one in module.graph.nodes if weighted(one))
    slopes = sensitivities(program, {node.name: axis, node.args[0].name: axis}, [x], items=len(x))
    rows = x if name == "linear" else x.movedim(1, -1).flatten(0, -2)
    values = noise_of.Spread(rows.amin(0), rows.amax(0), rows.square().sum(0).double(), len(rows))
    chosen = Options(weight_bits=bits, weight_granularity=granularity)
    reader = noise_of.reader_of(module, node, {node.args[0]: values}, slopes, chosen)
    scale = torch.linspace(2.0, 0.5, inputs)

    def outputs(value: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        if name == "linear":
            return F.linear(value, of)
        return F.conv2d(value, of, groups=layer.groups)

    def by_input(factor: torch.Tensor) -> torch.Tensor:
        """One factor for each channel of the inputs, in the shape of the weight."""
        if name == "linear":
            return factor
        of_groups = factor.reshape(layer.groups, 1, -1).expand(-1, 40 // layer.groups, -1).flatten(0, 1)
        return of_groups[:, :, None, None]

    scaled = weight * by_input(scale)
    ends = scaled.abs().flatten(1).amax(1)
    ends = ends if granularity == "per-channel" else ends.max().expand(len(ends))
    step = (2 * ends / (2**bits - 1)).reshape(-1, *[1] * (weight.dim() - 1))
    error = (scaled / step).round() * step - scaled
    divided = x / (scale if name == "linear" else scale.reshape(-1, 1, 1))
    power = outputs(x, weight).square().sum()
    measured = float(outputs(divided, error).square().sum() / power)
    assert noise_of.weight_noise(reader, scale.double()) == pytest.approx(measured, rel=0.08)
    noise = white(*x.shape, seed=3)
    measured = float(outputs(noise, weight).square().sum() / power)
    assert float(slopes[node.args[0].name].sum()) == pytest.approx(measured, rel=0.05)


def test_a_step_is_of_the_widest_scaled_range():
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 1.0])
    values = noise_of.Spread(low, high, torch.ones(2), 1)
    assert noise_of.step_of(values, torch.tensor([1.0, 2.0]), 8) == pytest.approx((3 + 1) / 255)
    assert noise_of.step_of(values, torch.tensor([3.0, 0.5]), 4) == pytest.approx((2 + 4) / 15)
