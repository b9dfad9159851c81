"""What noise in a value does to the outputs: against noise that was really added, and by hand."""

import pytest
import torch
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.passes import sensitivity as module_of
from zeropoint.passes.sensitivity import sensitivities


class TwoOutputs(nn.Module):
    """Outputs of unlike size, from a value with channels of unlike weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        y = torch.tanh(self.first(x))
        return 100 * y.mean((2, 3)), self.second(y.mean((2, 3)))


def node_of(program, operator):
    (found,) = [node.name for node in program.module.graph.nodes if node.name.startswith(operator)]
    return found


def noisy_outputs(network, x, channel, deviation, generator):
    """The outputs with noise in one channel of what tanh gives."""
    y = torch.tanh(network.first(x))
    y[:, channel] += deviation * torch.randn(y[:, channel].shape, generator=generator, dtype=y.dtype)
    mean = y.mean((2, 3))
    return 100 * mean, network.second(mean)


def test_it_is_the_noise_that_noise_makes():
    network = TwoOutputs().eval()
    x = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    program = capture(network, x[:2])
    name = node_of(program, "tanh")
    estimate = sensitivities(program, {name: 1}, [x.repeat(8, 1, 1, 1)], items=256)[name]
    network, x, deviation = network.double(), x.double().repeat(8, 1, 1, 1), 1e-4
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        clean = network(x)
        for channel in range(4):
            noisy = noisy_outputs(network, x, channel, deviation, generator)
            shares = [
                ((one - other).square().sum() / other.square().sum()).item()
                for one, other in zip(noisy, clean, strict=True)
            ]
            assert estimate[channel].item() == pytest.approx(sum(shares) / deviation**2, rel=0.25)


def test_a_linear_layer_by_hand():
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0, 4.0]])
    x = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])  # outputs 7 and -7
    program = capture(nn.Sequential(nn.Identity(), layer), x)
    estimate = sensitivities(program, {"input": 1, "input_1": 1, "x": 1}, [x])
    (found,) = estimate.values()
    torch.testing.assert_close(found, torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64) / 49)


def test_what_no_output_depends_on_is_left_out():
    class Place(nn.Module):
        def forward(self, x):
            return torch.relu(x).argmax(1)

    x = torch.randn(2, 3)
    program = capture(Place(), x)
    assert sensitivities(program, {node_of(program, "relu"): 1}, [x]) == {}


def test_masked_scores_and_slopes_without_end_do_not_count():
    """The score of class 1 is masked, and the square root has no slope at 0."""

    class Masked(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            scores = torch.stack([y[:, 0], torch.full_like(y[:, 0], -torch.inf)], 1)
            return scores, torch.sqrt(y[:, 1:])

    x = torch.tensor([[2.0, 0.0]])
    program = capture(Masked(), x)
    name = node_of(program, "relu")
    estimate = sensitivities(program, {name: 1}, [x])[name]
    torch.testing.assert_close(estimate, torch.tensor([1 / 4, 0.0], dtype=torch.float64))


def test_a_batch_that_takes_too_much_memory_is_not_looked_at(monkeypatch):
    x = torch.randn(2, 3)
    program = capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), x)
    name = node_of(program, "relu")
    assert sensitivities(program, {name: 1}, [x]).keys() == {name}
    monkeypatch.setattr(module_of, "MEMORY", 4 * (3 + 4 + 4) - 1)  # bytes of an item's values, less one
    assert sensitivities(program, {name: 1}, [x]) == {}
