"""Models by name: of torchvision, timm and transformers, the demo networks, and the user's own files."""

import contextlib
import dataclasses
import difflib
from pathlib import Path

import torch
from torch import nn

from zeropoint.errors import InputError, closest
from zeropoint.models import demo, refusals, states, timm, torchvision, transformers
from zeropoint.models.source import Preprocessing, Promise, RandomInputs, Source, normal
from zeropoint.models.userfile import call, is_userfile

__all__ = ["Preprocessing", "RandomInputs", "Source", "find", "is_program", "promise", "resolve"]

FORMS = "torchvision/NAME, timm/NAME, hf/ID-or-FOLDER, digits/NAME, FILE.pt2 or FILE.py:FUNCTION"


def is_program(spec: str) -> bool:
    """Whether ``spec`` names a saved Program, which ``zeropoint.graph.program.load`` opens."""
    return spec.endswith(".pt2")


def resolve(spec: str, weights: str = "default") -> nn.Module:
    """The network of ``find``."""
    return find(spec, weights).network


def find(spec: str, weights: str = "default", task: str | None = None) -> Source:
    """The model that ``spec`` names, in eval mode on the CPU, and what it is called on.

    ``spec`` is ``torchvision/NAME`` of any task, ``timm/NAME``, ``hf/ID-or-FOLDER`` of transformers,
    ``digits/NAME`` (a demo network) or ``FILE.py:FUNCTION`` (user code, called with no
    arguments). ``weights`` is ``default``, ``none`` (random with a fixed seed; a user's model stays as
    returned), the path of a state dict (.safetensors, .pt, .pth) or, for torchvision, the name of one of the
    model's weights such as ``IMAGENET1K_V2``. ``task`` chooses the head of a model of transformers, such as
    ``text-classification``. A user's model may say by an attribute ``preprocessing``, a Preprocessing, how
    images are prepared for it.

    Raises InputError for unknown names, files that are no models, packages that are not installed, failing
    downloads or user code, and weights that do not fit.
    """
    group, _, name = spec.partition("/")
    from_file = weights.endswith(states.SUFFIXES)
    own = "none" if from_file else weights
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if is_userfile(spec):
            found = _user_model(spec, own)
        elif group == "torchvision":
            found = torchvision.source(name, own)
        elif group == "timm":
            found = timm.source(name, own)
        elif group == "hf" and name:
            found = transformers.source(name, own, task)
        elif group == "digits":
            found = _demo_model(name, own)
        elif refusals.names_a_file(spec):
            raise refusals.refuse_model(Path(spec))
        else:
            raise InputError(f"unknown model {spec}; give {FORMS}{_near(spec)}")
    if from_file:
        states.load_into(found.network, Path(weights))
    return dataclasses.replace(found, network=found.network.eval())


def promise(spec: str, weights: str) -> Promise | None:
    """What the model of ``find`` is known to reach with these weights; None if that is not known."""
    group, _, name = spec.partition("/")
    if group != "torchvision" or weights == "none" or weights.endswith(states.SUFFIXES):
        return None
    return torchvision.promise(name, weights)


def _near(spec: str) -> str:
    """The models of the installed packages whose names are much like the last part of ``spec``."""
    known = {name: f"digits/{name}" for name in demo.NETWORKS}
    for group in (timm, torchvision):  # of two models of one name, torchvision's
        with contextlib.suppress(InputError):
            known |= {name: f"{group.__name__.rpartition('.')[2]}/{name}" for name in group.names()}
    near = difflib.get_close_matches(spec.rpartition("/")[2], known, n=3, cutoff=0.8)
    return f"; did you mean {' or '.join(known[name] for name in near)}?" if near else ""


def _user_model(spec: str, weights: str) -> Source:
    if weights not in ("default", "none"):
        raise InputError(f"unknown weights {weights} for {spec}; give default or the path of a state dict")
    network = call(spec, "make_model")
    if not isinstance(network, nn.Module):
        raise InputError(f"{spec} returned a {type(network).__name__}; return a torch.nn.Module")
    if any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()]):
        raise InputError(f"{spec} returned a model on the meta device, without weights; load them first")
    told = getattr(network, "preprocessing", None)
    return Source(network.cpu(), preprocessing=told if isinstance(told, Preprocessing) else None)


def _demo_model(name: str, weights: str) -> Source:
    if name not in demo.NETWORKS:
        raise InputError(f"unknown model digits/{name}; {closest(name, demo.NETWORKS)}")
    if weights not in ("default", "none"):
        raise InputError(f"unknown weights {weights} for digits/{name}; give default, none or a path")
    network = demo.NETWORKS[name]()
    if weights == "default":
        states.load_into(network, demo.checkpoint(name))
    return Source(network, normal(1, 32, 32))
