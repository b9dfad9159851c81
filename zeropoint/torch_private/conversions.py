"""Conversions of modules, as by ``layer.to(x.device)``, at export, which cannot replace a parameter."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def conversions_skipped() -> Iterator[None]:
    """Has conversions of a module to the type and device that it has already do nothing, as they should."""
    before: Any = nn.Module._apply

    def apply(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        tensors = (*module.parameters(recurse), *module.buffers(recurse))
        kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
        if all(_kind(convert(torch.empty(0, dtype=kind[0], device=kind[1]))) == kind for kind in kinds):
            return module
        return before(module, convert, recurse)

    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device
