"""Images: read from files, and made into what a model takes."""

import io
from pathlib import Path
from typing import Any

from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import split
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.models.vision import torchvision


def read(path: str | Path, content: bytes | None = None) -> Any:
    """An image file, or the ``content`` of one, as a Pillow image of red, green and blue.

    Raises InputError, about ``path``, if it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            return image.convert("RGB")
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


def prepared(preprocessing: Preprocessing) -> Any:
    """The transform of a Pillow image to what a model takes."""
    mode = interpolation(preprocessing)
    return torchvision().transforms.Compose([*cropped(preprocessing, mode), *finished(preprocessing)])


def varied(preprocessing: Preprocessing) -> Any:
    """The transform of a Pillow image, cropped and flipped at random, to what a model is trained on."""
    transforms = torchvision().transforms
    crop = transforms.RandomResizedCrop(preprocessing.crop, interpolation=interpolation(preprocessing))
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), *finished(preprocessing)])


def loaders(name: str, *parts: Any, how: str, preprocessing: Preprocessing, **chosen: Any) -> Loaders:
    """``splits.split`` of images that ``preprocessing`` prepares; ``how`` says what they are given with."""
    return split(
        name,
        *parts,
        noun="images",
        how=f"{how}, {described(preprocessing)}",
        mean=preprocessing.mean,
        std=preprocessing.std,
        preprocessing=preprocessing,
        **chosen,
    )


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
