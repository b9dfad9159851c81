"""Recurrent operators while a model is exported: PyTorch runs them step by step to find out a shape."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_OPERATORS: tuple[Any, ...] = tuple(
    getattr(torch.ops.aten, kind).input for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")
)
_KEYS = (torch._C.DispatchKey.Autograd, torch._C.DispatchKey.CompositeImplicitAutograd)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Has recurrent operators give empty tensors of the right shapes where a graph is traced.

    By default they are unrolled there, which fixes the number of steps: 10 s for 40 steps of two layers.
    """
    before = [dict(operator.py_kernels) for operator in _OPERATORS]
    try:
        _set([dict.fromkeys(_KEYS, shapes) for _ in _OPERATORS])
        yield
    finally:
        _set(before)


def _set(kernels: Sequence[dict[Any, Any]]) -> None:
    for operator, chosen in zip(_OPERATORS, kernels, strict=True):
        operator.py_kernels.update(chosen)
        operator._dispatch_cache.clear()


def shapes(x: Tensor, state: Tensor | Sequence[Tensor], *settings: Any) -> tuple[Tensor, ...]:
    """Empty tensors as a recurrent operator gives them: its output, and its last states.

    The output lies step by step in memory, also where items are its first axis.
    """
    states = [state] if isinstance(state, Tensor) else list(state)
    two_ways, items_first = settings[5:7]
    steps = [x.shape[int(items_first)], x.shape[1 - int(items_first)]]
    output = x.new_empty([*steps, states[0].shape[2] * (1 + bool(two_ways))])
    output = output.transpose(0, 1) if items_first else output
    return output, *(one.new_empty(one.shape) for one in states)
