"""Images: read from files, and made into what a model takes."""

from pathlib import Path
from typing import Any

from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.models.vision import torchvision


def read(path: str | Path) -> Any:
    """An image file as a Pillow image of red, green and blue. Raises InputError if it cannot be read."""
    try:
        return torchvision().datasets.folder.pil_loader(str(path))
    except (
        Exception
    ) as error:  # Pillow's decoders raise anything, from OSError to SyntaxError and struct.error
        raise InputError(f"cannot read the image {path}: {error}; remove or replace it") from error


def interpolation(preprocessing: Preprocessing) -> Any:
    """torchvision's mode of interpolation."""
    return torchvision().transforms.InterpolationMode(preprocessing.interpolation)


def finished(preprocessing: Preprocessing) -> list[Any]:
    """The transforms from a Pillow image of the right size to a float32 tensor (3, H, W)."""
    transforms = torchvision().transforms
    return [transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]


def cropped(preprocessing: Preprocessing, mode: Any) -> list[Any]:
    """The transforms of a Pillow image to the right size, in a mode of interpolation."""
    transforms = torchvision().transforms
    return [transforms.Resize(preprocessing.resize, mode), transforms.CenterCrop(preprocessing.crop)]


def described(preprocessing: Preprocessing) -> str:
    """In words, what ``cropped`` and ``finished`` do."""
    resize = preprocessing.resize
    size = resize if isinstance(resize, int) else shown(resize)
    return f"resized to {size}, cropped to {shown(preprocessing.crop)}, {scaled(preprocessing)}"


def scaled(preprocessing: Preprocessing) -> str:
    """In words, how the values are scaled."""
    mean, std = (
        ", ".join(f"{value:.3g}" for value in values) for values in (preprocessing.mean, preprocessing.std)
    )
    return f"mean ({mean}), std ({std})"


def shown(size: tuple[int, int]) -> str:
    """Height and width, as in 224x224."""
    return "x".join(map(str, size))
