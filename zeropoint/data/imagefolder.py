"""A folder of images sorted into one folder per class, streamed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from zeropoint.data.loaders import Loaders
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.models.vision import torchvision

CALIBRATION = 256  # images at most, and at most a fifth of the folder they are drawn from


def imagefolder(folder: Path, *, batch_size: int, seed: int, preprocessing: Preprocessing) -> Loaders:
    """The images ``folder/class/*.jpg`` (or .png, …) as float32 (N, 3, *crop), labels int64 (N,).

    A label is the rank of the class among the sorted folder names. ``preprocessing`` has the size, the mean
    and the deviation of the model's images.

    With subfolders ``train`` and ``val``, evaluation reads ``val``; ``train`` is split at random into a tenth
    for validation and the rest to train on (cropped and flipped at random), some to calibrate. Otherwise
    calibration is a random part of the folder, evaluation the rest. ``seed`` draws all of this, and the order
    of each part, which mixes the classes: any first batches are a fair sample of them.

    Raises InputError for a folder without classes or images and, while iterating, for an unreadable image.
    """
    transforms = torchvision().transforms
    resize, crop = preprocessing.resize, preprocessing.crop
    mode = transforms.InterpolationMode(preprocessing.interpolation)
    finish = [transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
    plain = transforms.Compose([transforms.Resize(resize, mode), transforms.CenterCrop(crop), *finish])
    varied = transforms.RandomResizedCrop(crop, interpolation=mode)
    augmented = transforms.Compose([varied, transforms.RandomHorizontalFlip(), *finish])
    generator = torch.Generator().manual_seed(seed)
    name = f"imagefolder:{folder}"
    pixels: Any = {"mean": preprocessing.mean, "std": preprocessing.std}

    def ordered(images: Any, indices: Sequence[int]) -> DataLoader[Any]:
        return DataLoader(Subset(images, indices), batch_size)

    if not ((folder / "train").is_dir() and (folder / "val").is_dir()):
        images = _images(folder, plain)
        calibration, rest = _drawn(len(images), min(CALIBRATION, len(images) // 5), folder, generator)
        return Loaders(name, ordered(images, calibration), ordered(images, rest), **pixels)

    train, evaluation = _images(folder / "train", plain), _images(folder / "val", plain)
    if train.classes != evaluation.classes:
        differing = sorted(set(train.classes) ^ set(evaluation.classes))[0]
        raise InputError(
            f"{folder}: class {differing} is in only one of train and val; make the classes equal"
        )
    validation, rest = _drawn(len(train), len(train) // 10, folder / "train", generator)
    picked, _ = _drawn(len(rest), min(CALIBRATION, len(rest) // 5), folder / "train", generator)
    augmented_images: Dataset[Any] = Subset(_images(folder / "train", augmented), rest)
    return Loaders(
        name,
        calibration=ordered(train, [rest[index] for index in picked]),
        evaluation=ordered(evaluation, torch.randperm(len(evaluation), generator=generator).tolist()),
        train=DataLoader(augmented_images, batch_size, shuffle=True, generator=generator),
        validation=ordered(train, validation),
        **pixels,
    )


def _images(folder: Path, transform: Any) -> Any:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; give imagefolder:DIR with one folder per class in it")
    try:
        return torchvision().datasets.ImageFolder(str(folder), transform, loader=_read)
    except OSError as error:  # no class folders, or a class without an image
        raise InputError(f"{folder}: {error}; sort the images into one folder per class") from error


def _read(path: str) -> Any:
    try:
        return torchvision().datasets.folder.pil_loader(path)
    except (
        Exception
    ) as error:  # Pillow's decoders raise anything, from OSError to SyntaxError and struct.error
        raise InputError(f"cannot read the image {path}: {error}; remove or replace it") from error


def _drawn(count: int, drawn: int, folder: Path, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """``drawn`` random indices below ``count``, and the others, both in random order."""
    if not drawn:
        raise InputError(f"{folder} has only {count} images, too few to hold some out; give more")
    order = torch.randperm(count, generator=generator).tolist()
    return order[:drawn], order[drawn:]
