"""Masks of ``nn.Transformer`` at export: PyTorch looks at their values, which a graph cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules import transformer

_LOOK = "_detect_is_causal_mask"


@contextmanager
def masks_unread() -> Iterator[None]:
    """Has attention masks added as they are, whether or not they are causal.

    By default ``nn.Transformer`` compares a mask with the causal one, for a faster kernel of the same result.
    """
    before = getattr(transformer, _LOOK)
    setattr(transformer, _LOOK, _as_said)
    try:
        yield
    finally:
        setattr(transformer, _LOOK, before)


def _as_said(mask: object, is_causal: bool | None = None, size: Any = None) -> bool:
    return is_causal is True
