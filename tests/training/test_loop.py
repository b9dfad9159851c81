import dataclasses
import math
import signal
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zeropoint.data import Loaders, resolve
from zeropoint.data.batches import limit
from zeropoint.errors import InputError, InputWarning
from zeropoint.training.floats import train_float
from zeropoint.training.loop import has_fallen
from zeropoint.training.loop import train as run
from zeropoint.training.options import TrainingOptions
from zeropoint.training.processes import move
from zeropoint.training.task import Task


@pytest.fixture
def points():
    """Two clouds of points, easily told apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    inputs = torch.randn(64, 2, generator=generator) + 4 * labels[:, None]
    return list(zip(inputs.split(16), labels.split(16), strict=True))


def train(module, loader, validation, *, parameter_groups=None, loss=None, **options):
    task = Task(module, parameter_groups=parameter_groups, **({} if loss is None else {"loss": loss}))
    return run(task, loader, validation, TrainingOptions(**{"optimizer": "sgd", **options}))


def accuracy(module, loader):
    return sum((module(x).argmax(1) == y).sum().item() for x, y in loader) / sum(len(y) for _, y in loader)


def test_it_learns_and_says_how_well(points):
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    result = train(network, points, points[:2], epochs=5, learning_rate=0.1)
    assert accuracy(network, points) > 0.95
    assert result.accuracy == accuracy(network, points[:2])
    assert result.losses[-1] < result.losses[0]
    assert not network.training


def test_steps_are_those_of_sgd_by_hand():
    """One batch, two epochs, against the recursion written out in float64."""
    x, y = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([0, 1])
    network = nn.Linear(2, 2, bias=False)
    weight = network.weight.detach().double().clone()
    velocity = torch.zeros_like(weight)
    rates = [0.5, 0.5 * (1 + math.cos(math.pi / 2)) / 2]  # a cosine over two steps
    for rate in rates:
        probabilities = F.softmax(x.double() @ weight.T, dim=1)
        gradient = (probabilities - F.one_hot(y, 2)).T @ x.double() / 2 + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight -= rate * (gradient + 0.9 * velocity)  # Nesterov
    train(network, [(x, y)], None, epochs=2, learning_rate=0.5, weight_decay=0.01, warmup=0.0)
    torch.testing.assert_close(network.weight.detach().double(), weight, rtol=1e-5, atol=1e-6)


def test_the_start_is_kept_where_training_harms(points):
    network = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train(network, points, None, epochs=1, learning_rate=0.05)
    assert not torch.equal(network.weight, before["weight"])
    network.load_state_dict(before)
    worst = [(x, network(x).argmin(1)) for x, _ in points]  # labels that the start gets wrong, all
    best = [(x, 1 - labels) for x, labels in worst]
    result = train(network, worst, best, epochs=3, learning_rate=0.1)
    assert (result.epoch, result.accuracy) == (0, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_best_epoch_is_kept(points):
    class Misleading:
        """Right labels in the first epoch, wrong ones in the others."""

        passes = 0

        def __iter__(self):
            self.passes += 1  # one of them is for a look at the first batch
            return iter(points if self.passes <= 2 else [(x, 1 - y) for x, y in points])

        def __length_hint__(self):
            return len(points)

    network = nn.Linear(2, 2)
    with torch.no_grad():  # the points of label 1 on the wrong side
        network.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    result = train(network, Misleading(), points, epochs=4, learning_rate=0.3, warmup=0.0)
    assert result.epoch == 1
    assert result.accuracy == accuracy(network, points)


def test_parameter_groups_choose_what_is_trained(points):
    network = nn.Linear(2, 2)
    weight, bias = network.weight.detach().clone(), network.bias.detach().clone()
    groups = [{"params": [network.weight]}, {"params": [network.bias], "lr": 0.0}]
    train(network, points, None, epochs=1, learning_rate=0.1, optimizer="adamw", parameter_groups=groups)
    assert not torch.equal(network.weight, weight)
    assert torch.equal(network.bias, bias)


def test_a_graph_module_is_trained_as_it_is(points):
    network = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))).eval()
    train(network, points, points, epochs=2, learning_rate=0.1)
    assert not network.training
    assert network.get_buffer("1.running_mean").abs().max() == 0


def test_a_graph_moves_with_the_devices_its_operators_name():
    graph = torch.fx.Graph()
    zeros = graph.call_function(torch.zeros, (2,), {"device": torch.device("cpu")})
    graph.output(graph.call_function(torch.add, (graph.placeholder("x"), zeros)))
    network = torch.fx.GraphModule(nn.Module(), graph)
    code = network.code
    move(network, torch.device("meta"))
    assert network.code != code
    assert network(torch.zeros(3, 2, device="meta")).shape == (3, 2)
    move(network, torch.device("cpu"))
    assert network.code == code


def test_nothing_to_train_on_is_told_where_the_length_is_unknown():
    class Stream:
        def __iter__(self):
            return iter(())

    with pytest.raises(InputError, match="no batch"):
        train(nn.Linear(2, 2), limit(Stream(), 3), None, epochs=1, learning_rate=0.1)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (torch.zeros(2, 2), "the training data has no labels"),
        ((torch.zeros(2, 2), torch.tensor([0, 2])), "label 2; the model has classes 0 to 1"),
        ((torch.zeros(2, 2), torch.tensor([-1, 0])), "label -1"),
        (
            ((torch.zeros(2, 2),), torch.eye(2)),
            r"batch 1 has labels torch.float32 \(2, 2\); give class numbers",
        ),
        (((torch.zeros(2, 2),), torch.eye(2).long()), r"batch 1 has labels torch.int64 \(2, 2\)"),
        (((torch.zeros(2, 2),), torch.tensor([0])), "batch 1 has 1 labels for 2 rows"),
        ((torch.full((2, 2), math.nan), torch.tensor([1, 0])), "nan at step 1, batch 1 of epoch 1"),
        ((torch.zeros(2, 3, 2), torch.tensor([1, 0])), r"shape \(2, 3, 2\)"),
    ],
)
def test_data_that_cannot_train_is_told(batch, told):
    with pytest.raises(InputError, match=told):
        train(nn.Linear(2, 2), [batch], None, epochs=1, learning_rate=0.1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 0}, "epochs is 0; give an int"),
        ({"optimizer": "sdg"}, "did you mean sgd"),
        ({"loader": []}, "no batch"),
    ],
)
def test_options_that_cannot_train_are_told(points, options, told):
    with pytest.raises(InputError, match=told):
        train(
            nn.Linear(2, 2),
            **{"loader": points, "validation": None, "epochs": 1, "learning_rate": 0.1, **options},
        )


def test_a_demo_network_trains_into_a_checkpoint(tmp_path):
    loaders = resolve("digits", batch_size=64, limit_batches=3)
    out = tmp_path / "new" / "net.safetensors"
    train_float("digits/mobilenet", loaders, out, TrainingOptions(epochs=1, learning_rate=0.1))
    assert load_file(out)["0.weight"].shape == (8, 1, 3, 3)
    assert [path.name for path in out.parent.iterdir()] == ["net.safetensors"]


def test_a_float_training_goes_on_after_an_interruption(tmp_path, request):
    # A process in the background begins with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    class Stopping:
        """A loader; at the second batch of its fifth pass, in the second epoch, the user stops."""

        def __init__(self, batches) -> None:
            self.batches, self.passes = list(batches), 0

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self):
            self.passes += 1
            for number, batch in enumerate(self.batches):
                if (self.passes, number) == (5, 1):
                    signal.raise_signal(signal.SIGINT)
                yield batch

    def network(out: str) -> dict:
        return load_file(tmp_path / out)

    digits = resolve("digits", batch_size=64, limit_batches=3)
    options = TrainingOptions(epochs=2, learning_rate=0.1)
    batches = Stopping(digits.train)
    loaders = dataclasses.replace(digits, train=batches)
    with pytest.raises(KeyboardInterrupt):
        train_float("digits/mobilenet", loaders, tmp_path / "a.safetensors", options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors.checkpoint"]
    train_float("digits/mobilenet", loaders, tmp_path / "a.safetensors", options)
    train_float("digits/mobilenet", loaders, tmp_path / "b.safetensors", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    expected = network("b.safetensors")
    assert all(torch.equal(value, expected[key]) for key, value in network("a.safetensors").items())


def test_a_failed_training_leaves_nothing_behind(tmp_path):
    class Broken:
        def __iter__(self):
            raise OSError("disk gone")

        def __len__(self):
            return 1

    loaders = Loaders("broken", [], [], train=Broken())
    with pytest.raises(InputError, match="the training data fails at batch 1: OSError: disk gone"):
        train_float("digits/resnet", loaders, tmp_path / "net.safetensors", TrainingOptions(epochs=1))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no training data"):
        train_float("digits/resnet", resolve("random"), tmp_path / "a.safetensors", TrainingOptions(epochs=1))
    with pytest.raises(InputError, match=r"name a \.safetensors file"):
        train_float("digits/resnet", loaders, tmp_path / "a.pt", TrainingOptions(epochs=1))


def test_a_moving_average_takes_the_place_of_the_weights(points):
    """Two steps of plain descent by hand, whose average has the decays 1/10 and 2/11 at first."""
    network = nn.Linear(2, 2, bias=False)
    inputs, labels = points[0]
    weight = network.weight.detach().double().clone()
    average, rates = weight.clone(), [0.5, 0.25]
    for step, rate in enumerate(rates):
        probabilities = F.softmax(inputs.double() @ weight.T, dim=1)
        gradient = (probabilities - F.one_hot(labels, 2)).T @ inputs.double() / len(labels)
        velocity = gradient if step == 0 else 0.9 * velocity + gradient  # noqa: F821
        weight = weight - rate * (gradient + 0.9 * velocity)
        decay = min(0.5, (step + 1) / (step + 10))
        average = decay * average + (1 - decay) * weight
    options = {"weight_decay": 0.0, "warmup": 0.0, "average": 0.5}
    train(network, points[:1], None, epochs=2, learning_rate=0.5, **options)
    torch.testing.assert_close(network.weight.detach().double(), average, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_batches_are_one_large_batch(points, accumulate):
    torch.manual_seed(0)
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.load_state_dict(one.state_dict())
    options = {"epochs": 3, "learning_rate": 0.1}
    train(one, points, None, accumulate=accumulate, **options)
    groups = [points[i : i + accumulate] for i in range(0, len(points), accumulate)]
    together = [tuple(torch.cat(parts) for parts in zip(*group, strict=True)) for group in groups]
    train(other, together, None, **options)
    torch.testing.assert_close(one.weight, other.weight)
    torch.testing.assert_close(one.bias, other.bias)


def test_a_rate_that_destroys_the_start_is_warned_about(points):
    network = nn.Linear(2, 2)
    train(network, points, points, epochs=8, learning_rate=0.1)
    turned = [(inputs, 1 - labels) for inputs, labels in points]
    with pytest.warns(InputWarning, match=r"after epoch 1 validation accuracy is .*%, and was .*%"):
        train(network, turned, points, epochs=1, learning_rate=1.0)


@pytest.mark.parametrize(("lost", "warns"), [(1, False), (3, False), (5, True)])
def test_a_fall_that_may_be_chance_is_no_reason_to_warn(lost, warns):
    """Of 200 images, all right before: two standard errors are 4 images, sqrt(4 · 196 / 200) · 2 = 3.96."""
    inputs = torch.cat([torch.full((lost, 2), 0.1), torch.full((200 - lost, 2), 2.0)])
    network = nn.Linear(2, 2)

    def set_weights(offset: float) -> None:
        with torch.no_grad():
            network.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
            network.bias.copy_(torch.tensor([0.0, offset]))

    set_weights(0.0)
    validation = [(inputs, torch.zeros(200, dtype=torch.int64))]
    task = Task(network, after_step=lambda: set_weights(1.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(task, validation, validation, TrainingOptions(epochs=1))
    assert any("may be too high" in str(one.message) for one in caught) == warns


@pytest.mark.parametrize(
    ("before", "after", "rows", "fallen"),
    [(0.95, 0.9, 200, False), (0.95, 0.9, 250, True), (0.9, 0.95, 250, False), (1.0, 0.0, 8, True)],
)
def test_a_fall_is_two_standard_errors_of_a_difference_of_proportions(before, after, rows, fallen):
    """(0.95 · 0.05 + 0.9 · 0.1) / 200 = 0.0262², / 250 = 0.0235²."""
    assert has_fallen(before, after, rows) is fallen


def test_data_smaller_than_a_batch_is_told(points):
    inputs, labels = points[0]
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=32)
    with pytest.raises(InputError, match="16 items, less than a batch of 32"):
        train(nn.Linear(2, 2), loader, None, epochs=1, learning_rate=0.1)


def test_random_states_are_left_as_they_were(points):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(nn.Linear(2, 2), points, None, epochs=1, learning_rate=0.1)
    # The layer above drew from them, the training did not.
    torch.manual_seed(3)
    nn.Linear(2, 2)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    train(nn.Linear(2, 2), points, None, epochs=1, learning_rate=0.1)
    assert torch.equal(torch.rand(3), drawn)
    assert not torch.equal(drawn, expected)


@torch.library.custom_op("tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    """An operator of which no compiler knows the shape that it gives."""
    return x.clone()


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(torch.ops.tests.opaque(x))


def test_what_cannot_be_compiled_is_told(points):
    train(Opaque(), points, None, epochs=1)
    with pytest.raises(InputError, match=r"cannot compile: .*; train without --compile"):
        train(Opaque(), points, None, epochs=1, compile=True)
