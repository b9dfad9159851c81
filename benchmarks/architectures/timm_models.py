"""timm: the smallest network of every family, with random weights."""

from functools import partial
from typing import Any

from torch import nn

from zeropoint.models.vision import torchvision

from .spec import Architecture, image

FAMILIES: dict[str, int] = {}


def _make(name: str, **chosen: Any) -> nn.Module:
    torchvision()  # timm imports it; this way it works with any build of torch
    import timm

    return timm.create_model(name, **chosen)


def networks() -> list[Architecture]:
    return [
        Architecture(f"timm/{name}", partial(_make, name), image(3, side)) for name, side in FAMILIES.items()
    ]
