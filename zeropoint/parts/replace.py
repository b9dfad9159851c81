"""Replace: a copy of a model in which some modules run on an engine."""

import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zeropoint.engines import Runner
from zeropoint.errors import InputError, InputWarning, first_line


@dataclass(frozen=True)
class OnEngine:
    """What runs in place of a module's ``forward``, and the types of the tensors that the module gives."""

    runner: Runner
    dtypes: tuple[torch.dtype, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives for a call. Raises InputError for a call that the runner was not made for."""
        signature = self.runner.signature
        assert signature is not None  # it was compiled from a Program
        inputs = (tensor.detach().contiguous() for tensor in signature.flat(args, kwargs))
        outputs = zip(self.runner.flat(*inputs), self.dtypes, strict=True)
        return signature.nested([_ordinary(tensor).to(dtype) for tensor, dtype in outputs])


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that the code around may write to."""
    return tensor.clone() if tensor.is_inference() else tensor


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode on the CPU, which shares its parameters if they are there.

    Raises InputError for a model that cannot be copied.
    """
    tensors = [*model.parameters(), *model.buffers()]
    try:
        if not all(tensor.is_cpu for tensor in tensors):
            return copy.deepcopy(model).cpu().eval()
        return copy.deepcopy(model, {id(tensor): tensor for tensor in model.parameters()}).eval()
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"the model cannot be copied: {reason}; make copy.deepcopy work on it") from error


def replaced(model: nn.Module, parts: Mapping[str, Callable[..., Any]]) -> nn.Module:
    """A copy of the model whose modules of these names run on an engine.

    A module keeps its class, attributes, hooks and float weights, which the code around it may read. A call
    that its runner was not made for, of another structure or size, it computes itself; the first one warns.
    """
    made = copied(model)
    for name, part in parts.items():
        module = made.get_submodule(name)
        setattr(module, "forward", _forward(name or "the model", part, module.forward))  # noqa: B010
    return made


def _forward(name: str, part: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    warned = False

    @functools.wraps(own)  # libraries read the signature of a forward
    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal warned
        try:
            return part(*args, **kwargs)
        except InputError as reason:
            if not warned:
                what = str(reason).partition("; axis")[0]  # the rest is advice on capture
                line = f"{name} runs in float on such calls: {what}; calibrate on such ones, too"
                warnings.warn(InputWarning(line), stacklevel=2)
                warned = True
        return own(*args, **kwargs)

    return forward
