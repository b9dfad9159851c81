"""Source: a model by name, with what it is called on."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zeropoint.torch_private.trees import tree_leaves, tree_map_only

Inputs = Any
"""The arguments of one call: a tensor, a tuple of positional ones, or a dict of keyword ones."""

RandomInputs = Callable[[int, torch.Generator | None], Inputs]
"""Makes so many random items from a generator (None: the global one)."""

SIDES = (8, 16, 28, 32, 64, 128, 224, *range(1, 64))  # pixels, of images that are tried, in order
SETTLED = 4 * 3 * 224 * 224  # values in the batch of noise that batch norms are settled on


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a model.

    ``resize``: the shorter side, or height and width, in pixels; the middle ``crop``, height and width, is
    taken. ``mean`` and ``std`` of each channel are those of values in [0, 1]. ``interpolation``: nearest,
    bilinear, bicubic or lanczos.
    """

    resize: int | tuple[int, int] = 256
    crop: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Promise:
    """What weights are known to reach: the ``value`` of a ``metric``, a fraction of 1, on ``data``."""

    metric: str
    value: float
    data: str


@dataclass(frozen=True)
class Source:
    """A network in eval mode on the CPU, and what it takes.

    ``inputs`` makes random items; None if the shape is not known. ``preprocessing`` is that of images, and
    ``tokenizer`` the folder or ID of a model of transformers that of texts; None if the model does not tell.
    """

    network: nn.Module
    inputs: RandomInputs | None = None
    preprocessing: Preprocessing | None = None
    tokenizer: str | None = None


def normal(*shape: int) -> RandomInputs:
    """One float32 tensor (N, *shape) of standard normal values."""
    return functools.partial(_normal, shape)


def _normal(shape: tuple[int, ...], items: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(items, *shape, generator=generator)


def like(example: Inputs, *, free_batch: bool) -> RandomInputs:
    """Inputs of the structure of ``example``: normal values for its floats, and its very integers.

    The first size is the number of items with ``free_batch``, else that of the example.
    """
    return functools.partial(_like, example, free_batch)


def _like(example: Inputs, free_batch: bool, items: int, generator: torch.Generator | None) -> Inputs:
    def made(tensor: Tensor) -> Tensor:
        rows = items if free_batch and tensor.dim() else len(tensor) if tensor.dim() else 1
        if tensor.is_floating_point():
            shape = (rows, *tensor.shape[1:]) if tensor.dim() else ()
            return torch.randn(shape, generator=generator).to(tensor.dtype)
        return tensor[:1].expand(rows, *tensor.shape[1:]) if tensor.dim() and rows != len(tensor) else tensor

    return tree_map_only(Tensor, made, example)


def fitting_shape(network: nn.Module) -> str:
    """The shape, as in ``1x8x8``, of small inputs that a network runs on; empty if none was found."""
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    first = next((module for module in network.modules() if isinstance(module, layers)), None)
    if first is None:
        return ""
    for side in SIDES:
        sizes = (
            (first.in_features,)
            if isinstance(first, nn.Linear)
            else (first.in_channels, *[side] * (first.weight.dim() - 2))
        )
        with contextlib.suppress(Exception), torch.no_grad():
            network(torch.zeros(1, *sizes))
            return "x".join(map(str, sizes))
    return ""


def call(network: Callable[..., Any], inputs: Inputs) -> Any:
    """What the network gives for the arguments of one call."""
    if isinstance(inputs, dict):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)


def settled(network: nn.Module, inputs: RandomInputs) -> nn.Module:
    """The untrained network itself, with batch norms that know its activations, from one batch of noise.

    Without, activations fade layer by layer to denormal numbers, on which processors are many times slower,
    and the outputs hardly depend on the inputs: neither latency nor fidelity would be like a trained
    network's.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return network
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the statistics of this batch alone
    values = sum(leaf.numel() for leaf in tree_leaves(inputs(1, torch.Generator())))
    with torch.no_grad():
        call(network, inputs(max(2, min(4, SETTLED // values)), None))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    return network
