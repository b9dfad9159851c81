"""Operators: their types, signatures and kernels."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._export import utils as export_utils
from torch._ops import HigherOrderOperator, OpOverload

__all__ = ["OpOverload"]


def on_fake(target: Any, *arguments: Any, **options: Any) -> Any:
    """What an operator gives on fake tensors; called by itself it may fix the sizes that are free."""
    with enable_python_dispatcher():
        return target(*arguments, **options)


def is_operator(target: object) -> TypeGuard[OpOverload]:
    """Whether the target of a node is one overload of an operator."""
    return isinstance(target, OpOverload)


def is_higher_order(target: object) -> bool:
    """Whether the target of a node takes graphs, as ``cond`` and loops do."""
    return isinstance(target, HigherOrderOperator)


def signature(target: object) -> Any:
    """The arguments and results of an operator, and whether it writes to one; None for other functions."""
    return getattr(target, "_schema", None)


def has_kernel(name: str, key: str) -> bool:
    """Whether the operator ``name``, such as ``aten::relu``, has a kernel for a dispatch key."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))


def has_bfloat16_kernels() -> bool:
    """Whether oneDNN has bfloat16 kernels for this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def composites_listed_once() -> Iterator[None]:
    """Within, PyTorch looks for composite operators once.

    ``run_decompositions`` looks for all of them once for each of some 30 namespaces: a third of the time of
    lowering a small network (AMD EPYC with AVX2, one thread, 2026-11-28).
    """
    look = export_utils._materialize_cpp_cia_ops
    export_utils._materialize_cpp_cia_ops = functools.cache(look)
    try:
        yield
    finally:
        export_utils._materialize_cpp_cia_ops = look
