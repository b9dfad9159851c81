"""Quantization-aware training, on clusters of points that a small network tells apart."""

import math
import sys

import pytest
import torch
from networks import clusters
from torch import Tensor, nn

from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.capture import capture
from zeropoint.graph.operators import FAKE_QUANTIZE_CHANNEL, FAKE_QUANTIZE_TENSOR
from zeropoint.graph.program import Program, load
from zeropoint.graph.quantizers import Quantizer, quantizers
from zeropoint.measure.evaluate import evaluate
from zeropoint.numerics.learned import fake_quantize_learned
from zeropoint.passes.learnable import constant, learnable, make_learnable, parameter_groups
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options
from zeropoint.training import loop
from zeropoint.training.options import TrainingOptions


@pytest.fixture(scope="module")
def trained() -> Program:
    """A float network that tells the clusters apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
    loop.train(loop.Task(model), clusters(), None, TrainingOptions(epochs=60, learning_rate=0.01))
    return capture(model, clusters()[0][0])


LOW = Options(
    weight_bits=2,
    activation_bits=2,
    end_bits=2,
    ranges="minmax",
    training=TrainingOptions(epochs=20, learning_rate=0.1),
)


def low_bit(program: Program, method: str) -> Program:
    return quantize(
        program, method, calibration=clusters(), train=clusters(), validation=clusters(), options=LOW
    )


@pytest.fixture(scope="module")
def few(trained: Program) -> tuple[dict[str, Program], loop.Training]:
    """Programs of few bits, by method, and what was told of the training."""
    told = []
    train = loop.train
    with pytest.MonkeyPatch.context() as patch:
        spy = lambda *a, **options: told.append(train(*a, **options)) or told[-1]  # noqa: E731
        patch.setattr(sys.modules["zeropoint.methods.qat"], "train", spy)
        return {method: low_bit(trained, method) for method in ("static", "qat")}, told[0]


@pytest.mark.slow
def test_training_wins_back_what_few_bits_cost(trained: Program, few):
    test = clusters(seed=7)
    static, qat = (evaluate(few[0][method], test).accuracy for method in ("static", "qat"))
    assert evaluate(trained, test).accuracy.top1 > 0.95
    assert qat.top1 > static.top1
    assert qat.loss < static.loss


@pytest.mark.slow
def test_loss_falls(few):
    assert few[1].losses[-1] < 0.7 * few[1].losses[0]
    assert few[1].accuracy is not None


@pytest.mark.slow
def test_result_holds_plain_quantizers_only_and_can_be_saved(few, tmp_path):
    program = few[0]["qat"]
    assert (program.method, program.weight_bits, program.activation_bits) == ("qat", 2, 2)
    fake = [node.target for node in program.module.graph.nodes if "fake_quantize" in str(node.target)]
    assert set(fake) == {FAKE_QUANTIZE_CHANNEL, FAKE_QUANTIZE_TENSOR}
    assert len(fake) == len(list(quantizers(few[0]["static"].module)))
    assert not [name for name, _ in program.module.named_parameters() if name.startswith("quantizers")]
    program.save(tmp_path / "m.pt2")
    batch = clusters()[0][0]
    torch.testing.assert_close(load(tmp_path / "m.pt2")(batch), program(batch))


@pytest.mark.slow
@pytest.mark.parametrize("grad", [True, False])
def test_float_program_and_the_users_parameters_stay_as_they_are(grad: bool):
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8)).requires_grad_(
        grad
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program = capture(model, clusters()[0][0])
    outputs = program(clusters()[0][0])
    qat = low_bit(program, "qat")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad is grad for parameter in model.parameters())
    assert torch.equal(program(clusters()[0][0]), outputs)
    assert not torch.equal(qat(clusters()[0][0]), low_bit(program, "static")(clusters()[0][0]))


@pytest.mark.slow
def test_epoch_of_the_best_validation_is_kept(trained: Program, monkeypatch: pytest.MonkeyPatch):
    """Labels of validation that no training comes to: the first epochs fit them best."""
    wrong = [(inputs, (labels + 1) % 8) for inputs, labels in clusters()]
    options = Options(2, 4, training=TrainingOptions(epochs=3, learning_rate=0.1))  # so that epochs differ
    parts = {"calibration": clusters(), "train": clusters(), "options": options}
    kept = quantize(trained, "qat", **parts, validation=wrong)
    last = quantize(trained, "qat", **parts)
    assert not torch.equal(kept(clusters()[0][0]), last(clusters()[0][0]))


def test_step_gradient_is_the_papers():
    """Esser et al. 2020, eq. 3 and section 2.2, by hand, for a weight of two channels and an activation."""
    linear = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.31, -0.62, 1.0], [0.2, -0.11, 0.5]]))
    inputs = torch.tensor([[0.26, 1.9, 0.7], [0.4, 0.9, 3.0]])
    options = Options(weight_bits=3, activation_bits=3, end_bits=3, ranges="minmax", rounding="nearest")
    static = quantize(capture(linear, inputs), calibration=[inputs / 2], options=options)
    module = fx.copy(static.module)
    places = {
        place.before.is_weight: place
        for place in (make_learnable(module, q, static) for q in [*quantizers(module)])
    }
    steps = dict(module.named_parameters())
    # Step sizes count those of the start: at 0.7 of them some values are clipped.
    units = {kind: place.before.scale for kind, place in places.items()}
    scales = {kind: steps[place.scale].detach().mul_(0.7) * units[kind] for kind, place in places.items()}
    module(inputs).sum().backward()

    def by_hand(values: Tensor, scale: Tensor, low: int, high: int, shared: int, upstream: Tensor) -> Tensor:
        v = values / scale
        slope = torch.where(v <= low, float(low), torch.where(v >= high, float(high), v.round() - v))
        return slope * upstream / math.sqrt(shared * high)

    weight = linear.weight.detach()
    weight_scale = scales[True].reshape(2, 1)
    rounded_weight = (weight / weight_scale).round().clamp(-4, 3) * weight_scale
    rounded_inputs = (inputs / scales[False]).round().clamp(0, 7) * scales[False]
    # The sum of all outputs passes the sum of the other factor's column to each value.
    expected = by_hand(inputs, scales[False], 0, 7, 3, rounded_weight.sum(0).expand(2, 3)).sum()
    torch.testing.assert_close(steps[places[False].scale].grad, expected.reshape(1) * units[False])
    expected = by_hand(weight, weight_scale, -4, 3, 3, rounded_inputs.sum(0).expand(2, 3)).sum(1)
    torch.testing.assert_close(steps[places[True].scale].grad, expected * units[True])


def test_learnable_quantizers_compute_what_the_plain_ones_do(trained: Program):
    static = low_bit(trained, "static")
    module = fx.copy(static.module)
    for quantizer in list(quantizers(module)):
        make_learnable(module, quantizer, static)
    targets = {node.target for node in module.graph.nodes if node.op == "call_function"}
    assert not targets & {FAKE_QUANTIZE_TENSOR, FAKE_QUANTIZE_CHANNEL}
    assert fake_quantize_learned in targets
    torch.testing.assert_close(module(clusters()[0][0]).detach(), static(clusters()[0][0]))


def test_a_step_moves_channels_of_all_sizes_by_the_same_share_of_their_grid():
    """Two channels, one a thousand times the other: a step of Adam is 0.1 steps of each one's grid."""
    linear = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[300.0, -600.0, 1000.0], [0.2, -0.1, 0.5]]))
    inputs = torch.tensor([[0.26, 1.9, 0.7], [0.4, 0.9, 3.0]])
    options = Options(ranges="minmax", rounding="nearest")
    static = quantize(capture(linear, inputs), calibration=[inputs], options=options)
    module, places = learnable(static)
    adam = torch.optim.Adam(parameter_groups(module, places, 0.1))
    module(inputs).sum().backward()
    adam.step()
    constant(module, places)
    (before,), (after,) = ([q for q in quantizers(m) if q.is_weight] for m in (static.module, module))
    moved = fx.tensor_of(module, after.source) - fx.tensor_of(static.module, before.source)
    steps = (moved / before.scale.reshape(2, 1)).abs()
    torch.testing.assert_close(steps, torch.full((2, 3), 0.1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        (after.scale / before.scale - 1).abs(), torch.full((2,), 0.01), rtol=1e-3, atol=0
    )


def test_a_layer_called_twice_is_learned_once_and_comes_back():
    layer = nn.Linear(6, 6)
    program = capture(nn.Sequential(layer, nn.ReLU(), layer), clusters()[0][0])
    static = quantize(program, calibration=clusters())
    module, places = learnable(static)
    expected = static(clusters()[0][0])
    torch.testing.assert_close(module(clusters()[0][0]), expected)
    constant(module, places)
    torch.testing.assert_close(module(clusters()[0][0]), expected)


@pytest.mark.slow
def test_quantizers_around_moves_keep_one_grid():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 1),
        nn.ReLU(),
        nn.MaxPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(8, 8),
    )
    options = Options(training=TrainingOptions(epochs=3, learning_rate=0.1), processor="vnni")
    program = capture(model, clusters()[0][0])
    parts = {"calibration": clusters(), "train": clusters(), "options": options}
    static, qat = (
        [q for q in quantizers(quantize(program, method, **parts).module) if not q.is_weight]
        for method in ("static", "qat")
    )

    def grids(found: list[Quantizer]) -> dict[str, tuple[float, int]]:
        return {q.source.name: (q.scale.item(), q.zero_point.item()) for q in found}

    assert grids(qat)["relu"] == grids(qat)["flatten"] != grids(static)["relu"]
    assert grids(static)["relu"] == grids(static)["flatten"]


def test_data_that_is_missing(trained: Program):
    with pytest.raises(InputError, match="'qat' needs train data"):
        quantize(trained, "qat", calibration=clusters())
