"""Operations on lists of tensors, one call for all of them."""

import torch
from torch import Tensor


def lerp_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Moves each tensor towards the end at its place by ``weight``, in place."""
    torch._foreach_lerp_(tensors, ends, weight)


def clamp_min_(tensors: list[Tensor], least: float) -> None:
    """Raises the elements of each tensor to ``least``, in place."""
    torch._foreach_clamp_min_(tensors, least)
