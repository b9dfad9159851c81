"""What an architecture is: a name, a function that builds the network, and the inputs of one call."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Noise:
    """A random input: standard normal, or integers below ``high``, or all ones (a mask) if ``high`` is 1.

    ``shape`` is that of one item; ``batch`` is the axis along which items are stacked, None if they are not.
    """

    shape: tuple[int, ...]
    high: int = 0
    batch: int | None = 0

    def sample(self, items: int, generator: torch.Generator) -> Tensor:
        shape = list(self.shape)
        if self.batch is not None:
            shape.insert(self.batch, items)
        if self.high == 1:
            return torch.ones(shape, dtype=torch.long)
        if self.high:
            return torch.randint(self.high, shape, generator=generator)
        return torch.randn(shape, generator=generator)


Inputs = tuple[Noise, ...] | Mapping[str, Noise]


@dataclass(frozen=True)
class Architecture:
    """``inputs`` are positional, or by keyword."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs

    def network(self) -> nn.Module:
        """The network in eval mode, the same at every call; its batch norms have the statistics of noise."""
        torch.manual_seed(0)
        network = self.build()
        _wake(network)
        settle(network, [self.sample(4, seed) for seed in range(3)])
        return network.eval()

    def sample(self, items: int, seed: int) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """The inputs of one call with so many items."""
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.inputs, tuple):
            return tuple(noise.sample(items, generator) for noise in self.inputs)
        return {name: noise.sample(items, generator) for name, noise in self.inputs.items()}


def call(network: Callable[..., Any], inputs: tuple[Tensor, ...] | dict[str, Tensor]) -> Any:
    """``network`` on positional or keyword inputs."""
    return network(**inputs) if isinstance(inputs, dict) else network(*inputs)


def image(channels: int = 3, side: int = 64) -> tuple[Noise, ...]:
    return (Noise((channels, side, side)),)


def tokens(length: int, vocabulary: int) -> Noise:
    return Noise((length,), vocabulary)


@torch.no_grad()
def _wake(network: nn.Module) -> None:
    """Weights that start as zero, of heads and the last norms of residual blocks, get values.

    Layer scales that start far below 0.1 get that: else whole blocks would not count.
    """
    for name, parameter in network.named_parameters():
        largest = float(parameter.abs().max()) if parameter.numel() else 1.0
        if parameter.dim() >= 2 and not largest:
            parameter.normal_(std=0.5 / math.sqrt(parameter[0].numel()))
        elif parameter.dim() <= 1 and name.endswith(("weight", "gamma", "scale", "gain")) and largest < 0.1:
            parameter.fill_(0.1)


@torch.no_grad()
def settle(network: nn.Module, batches: list[Any]) -> None:
    """Gives the batch norms the mean statistics of these batches."""
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    network.eval()
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean of all batches
        norm.train()
    for batch in batches:
        call(network, batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
