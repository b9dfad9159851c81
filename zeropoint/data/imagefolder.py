"""A folder of images sorted into one folder per class, streamed."""

from pathlib import Path
from typing import Any

from zeropoint.data import images
from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import check_classes, counted, parts_of
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.models.vision import torchvision


def imagefolder(folder: Path, *, batch_size: int, seed: int, preprocessing: Preprocessing) -> Loaders:
    """The images ``folder/class/*.jpg`` (or .png, …) as float32 (N, 3, *crop), labels int64 (N,).

    A label is the rank of the class among the sorted folder names. ``preprocessing`` has the size, the mean
    and the deviation of the model's images. Subfolders ``train`` and ``val`` are read as such; images of
    ``train`` are cropped and flipped at random where they are trained on. Otherwise the folder is split.

    Raises InputError for a folder without classes or images and, while iterating, for an unreadable image.
    """
    plain = images.prepared(preprocessing)
    place, *to_train_on = parts_of(folder)
    evaluation = _images(place, plain)
    train, augmented = None, None
    for part in to_train_on:
        train = _images(part, plain)
        check_classes(folder, evaluation.classes, train.classes)
        augmented = _images(part, images.varied(preprocessing))
    return images.loaders(
        f"imagefolder:{folder}",
        evaluation,
        train,
        augmented=augmented,
        batch_size=batch_size,
        seed=seed,
        how=f" in {counted(len(evaluation.classes))}",
        preprocessing=preprocessing,
    )


def _images(folder: Path, transform: Any) -> Any:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; give imagefolder:DIR with one folder per class in it")
    try:
        return torchvision().datasets.ImageFolder(str(folder), transform, loader=images.read)
    except OSError as error:  # no class folders, or a class without an image
        raise InputError(f"{folder}: {error}; sort the images into one folder per class") from error
