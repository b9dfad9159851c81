"""Images with a class for every pixel, as PASCAL VOC lays them out, streamed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zeropoint.data import images
from zeropoint.data.loaders import Loaders
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.models.vision import torchvision

LAYOUT = "give a folder with JPEGImages, SegmentationClass and ImageSets/Segmentation/val.txt"


def voc(folder: Path, *, batch_size: int, seed: int, preprocessing: Preprocessing) -> Loaders:
    """The images float32 (N, 3, *crop), in a tuple, and the classes of their pixels int64 (N, *crop).

    ``folder/ImageSets/Segmentation/val.txt`` lists the names, one a line, of ``folder/JPEGImages/NAME.jpg``
    (or .png) and ``folder/SegmentationClass/NAME.png``, whose palette or grey values are the class numbers;
    255 is a pixel that does not count. With ``train.txt`` beside it, that is trained and calibrated on;
    otherwise val.txt is split. Image and mask are resized and cropped alike, the mask by the nearest pixel.

    Raises InputError for a missing folder or file and, while iterating, for an unreadable image, or a mask
    that is coloured or of another size than its image.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; {LAYOUT}")
    lists = folder / "ImageSets" / "Segmentation"
    evaluation = _listed(folder, lists / "val.txt", preprocessing)
    train = lists / "train.txt"
    return images.loaders(
        f"voc:{folder}",
        evaluation,
        _listed(folder, train, preprocessing) if train.is_file() else None,
        batch_size=batch_size,
        seed=seed,
        how=" with masks",
        preprocessing=preprocessing,
        collate=_stacked,
    )


def _listed(folder: Path, file: Path, preprocessing: Preprocessing) -> "_Masked":
    if not file.is_file():
        raise InputError(f"no such file: {file}; {LAYOUT}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}; list names of images in it, one a line") from error
    if not (names := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{file} is empty; list the names of images in it, one a line")
    kinds = [folder / "JPEGImages", folder / "SegmentationClass"]
    pairs = [(_found(kinds[0], name), _found(kinds[1], name)) for name in names]
    return _Masked(pairs, preprocessing)


def _found(folder: Path, name: str) -> Path:
    for ending in (".jpg", ".png"):
        if (path := folder / f"{name}{ending}").is_file():
            return path
    raise InputError(f"{folder} has no {name}.jpg or .png, which ImageSets lists; add it, or unlist it")


@dataclass(frozen=True)
class _Masked(Dataset[tuple[Tensor, Tensor]]):
    pairs: list[tuple[Path, Path]]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, mask_path = self.pairs[index]
        image, mask = images.read(path), _mask(mask_path)
        if image.size != mask.size:
            raise InputError(f"{mask_path} has {mask.size} pixels and its image {image.size}; replace one")
        transforms, how = torchvision().transforms, self.preprocessing
        nearest = transforms.Compose(images.cropped(how, transforms.InterpolationMode.NEAREST))
        usual = images.cropped(how, images.interpolation(how))
        tensor: Tensor = transforms.Compose([*usual, *images.finished(how)])(image)
        return tensor, torch.from_numpy(np.array(nearest(mask), dtype=np.int64))


def _stacked(items: list[tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor], Tensor]:
    """A batch. Images alone would not tell masks from a second argument, as transformers' models have it."""
    pictures, masks = zip(*items, strict=True)
    return (torch.stack(pictures),), torch.stack(masks)


def _mask(path: Path) -> Any:
    """A Pillow image of class numbers."""
    from PIL import Image

    try:
        with Image.open(path) as mask:
            mask.load()
    except Exception as error:  # as of images
        raise InputError(f"cannot read the mask {path}: {error}; replace it") from error
    if mask.mode not in ("P", "L"):
        fix = "save class numbers, as a palette or in grey"
        raise InputError(f"the mask {path} holds colours ({mask.mode}); {fix}")
    return mask
