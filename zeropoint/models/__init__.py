"""Models by name: torchvision's, the demo networks, and those of the user's own files."""

import contextlib
from pathlib import Path

import torch
from torch import nn

from zeropoint.errors import InputError, closest
from zeropoint.models import demo, states, vision
from zeropoint.models.userfile import call, is_userfile
from zeropoint.progress import is_watched

__all__ = ["is_program", "resolve"]


def is_program(spec: str) -> bool:
    """Whether ``spec`` names a saved Program, which ``zeropoint.graph.program.load`` opens."""
    return spec.endswith(".pt2")


def resolve(spec: str, weights: str = "default") -> nn.Module:
    """The model that ``spec`` names, in eval mode on the CPU.

    ``spec`` is ``torchvision/NAME`` (an image classifier), ``digits/NAME`` (a demo network) or
    ``FILE.py:FUNCTION`` (user code, called with no arguments). ``weights`` is ``default``, ``none`` (random
    with a fixed seed; a user's model stays as returned), the path of a state dict (.safetensors, .pt, .pth)
    or, for torchvision, the name of one of the model's weights such as ``IMAGENET1K_V2``.

    Raises InputError for unknown names, failing downloads or user code, and weights that do not fit.
    """
    group, _, name = spec.partition("/")
    from_file = weights.endswith(states.SUFFIXES)
    own_weights = "none" if from_file else weights
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if is_userfile(spec):
            network = _user_model(spec, own_weights)
        elif group == "torchvision":
            network = _torchvision_model(name, own_weights)
        elif group == "digits":
            network = _demo_model(name, own_weights)
        else:
            valid = "torchvision/NAME, digits/NAME or FILE.py:FUNCTION"
            near = closest(f"torchvision/{spec.rpartition('/')[2]}", _names())
            raise InputError(f"unknown model {spec}; give {valid}; {near}")
    if from_file:
        states.load_into(network, Path(weights))
    return network.eval()


def _names() -> list[str]:
    """The models that have names, with those of torchvision if it is installed."""
    names = [f"digits/{name}" for name in demo.NETWORKS]
    with contextlib.suppress(InputError):
        names += [f"torchvision/{name}" for name in vision.classifiers()]
    return names


def _user_model(spec: str, weights: str) -> nn.Module:
    if weights not in ("default", "none"):
        raise InputError(f"unknown weights {weights} for {spec}; give default or the path of a state dict")
    network = call(spec, "make_model")
    if not isinstance(network, nn.Module):
        raise InputError(f"{spec} returned a {type(network).__name__}; return a torch.nn.Module")
    return network.cpu()


def _torchvision_model(name: str, weights: str) -> nn.Module:
    models = vision.torchvision().models
    names = vision.classifiers()
    if name not in names:
        raise InputError(f"unknown model torchvision/{name}; {closest(name, names)}")
    members = models.get_model_weights(name)
    if weights not in ("default", "none") and weights not in members.__members__:
        valid = ["default", "none", *members.__members__]
        raise InputError(f"unknown weights {weights} for torchvision/{name}; {closest(weights, valid)}")
    chosen = None if weights == "none" else members["DEFAULT" if weights == "default" else weights]
    try:
        network = models.get_model(name, weights=chosen, progress=is_watched())
        return _settled(network) if chosen is None else network
    except OSError as error:  # urllib's errors are OSErrors, and so is a full disk
        fix = "give --weights none, or --weights with the path of a state dict"
        raise InputError(f"cannot get the weights of torchvision/{name}: {error}; {fix}") from error


def _demo_model(name: str, weights: str) -> nn.Module:
    if name not in demo.NETWORKS:
        raise InputError(f"unknown model digits/{name}; {closest(name, demo.NETWORKS)}")
    if weights not in ("default", "none"):
        raise InputError(f"unknown weights {weights} for digits/{name}; give default, none or a path")
    network = demo.NETWORKS[name]()
    return states.load_into(network, demo.checkpoint(name)) if weights == "default" else network


def _settled(network: nn.Module) -> nn.Module:
    """The untrained network with batch norms that know its activations, from one batch of noise.

    Without, activations fade layer by layer to denormal numbers, on which processors are many times slower,
    and the outputs hardly depend on the inputs: neither latency nor fidelity would be like a trained
    network's.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the statistics of this batch alone
    if norms:
        with torch.no_grad():
            network(torch.randn(4, 3, 224, 224))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    return network
