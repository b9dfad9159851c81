"""A folder of images sorted into one folder per class, streamed."""

from pathlib import Path
from typing import Any

from zeropoint.data import images
from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import counted, split
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
    transforms, mode = torchvision().transforms, images.interpolation(preprocessing)
    finish = images.finished(preprocessing)
    plain = transforms.Compose([*images.cropped(preprocessing, mode), *finish])
    whole = not ((folder / "train").is_dir() and (folder / "val").is_dir())
    evaluation = _images(folder if whole else folder / "val", plain)
    train, augmented = None, None
    if not whole:
        train = _images(folder / "train", plain)
        varied = transforms.RandomResizedCrop(preprocessing.crop, interpolation=mode)
        random = transforms.Compose([varied, transforms.RandomHorizontalFlip(), *finish])
        augmented = _images(folder / "train", random)
        if train.classes != evaluation.classes:
            differing = sorted(set(train.classes) ^ set(evaluation.classes))[0]
            raise InputError(
                f"{folder}: class {differing} is in only one of train and val; make the classes equal"
            )
    return split(
        f"imagefolder:{folder}",
        evaluation,
        train,
        augmented=augmented,
        batch_size=batch_size,
        seed=seed,
        noun="images",
        how=f" in {counted(len(evaluation.classes))}, {images.described(preprocessing)}",
        mean=preprocessing.mean,
        std=preprocessing.std,
    )


def _images(folder: Path, transform: Any) -> Any:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; give imagefolder:DIR with one folder per class in it")
    try:
        return torchvision().datasets.ImageFolder(str(folder), transform, loader=images.read)
    except OSError as error:  # no class folders, or a class without an image
        raise InputError(f"{folder}: {error}; sort the images into one folder per class") from error
