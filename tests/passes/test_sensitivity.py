"""What noise in a value does to the outputs: against noise that was really added, and by hand."""

import pytest
import torch
from torch import nn

from zeropoint.graph.capture import capture
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
