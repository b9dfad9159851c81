"""Images with boxes, as COCO lays them out, streamed."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zeropoint.data import images
from zeropoint.data.loaders import Loaders
from zeropoint.data.splits import counted, split
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing
from zeropoint.models.vision import torchvision

LAYOUT = (
    "give a folder with annotations/instances_val*.json and perhaps instances_train*.json, or with one .json"
)


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Box(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # left, top, width, height in pixels
    iscrowd: int | bool = 0


class _Category(msgspec.Struct):
    id: int


class _Annotations(msgspec.Struct):
    """What is read of the file; masks, which are most of it, are skipped as it is parsed."""

    images: list[_Image]
    annotations: list[_Box]
    categories: list[_Category]


def coco(folder: Path, *, batch_size: int, seed: int, preprocessing: Preprocessing | None) -> Loaders:
    """The images with their boxes, for the task ``detection``.

    The annotations are ``folder/annotations/instances_val*.json``, with ``instances_train*.json`` if it is
    there; without these the only .json in ``folder`` or ``folder/annotations``, which is split. The images of
    ``instances_NAME.json`` are in ``folder/NAME`` or ``folder/images/NAME``, else as those of any other .json
    in ``folder/images`` or ``folder``: the first of these that has its first image.

    Without ``preprocessing`` a batch is a list of float32 images (3, H, W) of their own sizes, with values
    from 0 to 1, as torchvision's detectors take them. With it the whole image is resized to height and width
    of the crop, so that no object is cut off, and a batch is a tensor (N, 3, H, W). The targets are a list
    with a dict for each image: ``boxes`` float32 (K, 4), corners x1, y1, x2, y2 in pixels of that image,
    ``labels`` int64 (K,), the category ids of the file, and ``iscrowd`` int64 (K,). Boxes without area are
    left out.

    Raises InputError for a folder without annotations or images, a file that lacks a key, and annotations of
    images or categories that are not in it.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; {LAYOUT}")
    val, train = _files(folder)
    evaluation, classes = _detections(folder, val, preprocessing)
    size = "in their own sizes, values from 0 to 1"
    if preprocessing is not None:
        size = f"resized to {images.shown(preprocessing.crop)}, {images.scaled(preprocessing)}"
    return split(
        f"coco:{folder}",
        evaluation,
        None if train is None else _detections(folder, train, preprocessing)[0],
        batch_size=batch_size,
        seed=seed,
        noun="images",
        how=f" with boxes of {counted(classes)}, {size}",
        collate=_listed if preprocessing is None else _stacked,
        mean=() if preprocessing is None else preprocessing.mean,
        std=() if preprocessing is None else preprocessing.std,
    )


def _files(folder: Path) -> tuple[Path, Path | None]:
    """The annotations to evaluate on, and those to train on."""
    inside = folder / "annotations"
    vals, trains = (sorted(inside.glob(f"instances_{part}*.json")) for part in ("val", "train"))
    if len(vals) == 1 and len(trains) < 2:
        return vals[0], trains[0] if trains else None
    every = [*sorted(folder.glob("*.json")), *sorted(inside.glob("*.json"))]
    if len(every) != 1:
        names = ", ".join(file.name for file in every[:4])
        found = f"several files that may hold annotations, {names}" if every else "no .json of annotations"
        raise InputError(f"{folder} has {found}; {LAYOUT}")
    return every[0], None


def _detections(folder: Path, file: Path, preprocessing: Preprocessing | None) -> tuple["_Detections", int]:
    """The images of a file, and the number of its categories."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_Annotations)
    except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no COCO file of boxes: {error}; {LAYOUT}") from error
    if not found.images:
        raise InputError(f"{file} lists no images; {LAYOUT}")
    known, categories = {one.id for one in found.images}, {one.id for one in found.categories}
    boxes: dict[int, list[_Box]] = defaultdict(list)
    for number, box in enumerate(found.annotations):
        for what, value, valid in (("image", box.image_id, known), ("category", box.category_id, categories)):
            if value not in valid:
                raise InputError(f"{file}: annotations[{number}] is of {what} {value}, which is not listed")
        if box.bbox[2] > 0 and box.bbox[3] > 0:
            boxes[box.image_id].append(box)
    first, part = found.images[0].file_name, file.stem.removeprefix("instances_")
    places = [folder / part, folder / "images" / part, folder / "images", folder]
    place = next((one for one in places if (one / first).is_file()), None)
    if place is None:
        listed = ", ".join(map(str, places))
        raise InputError(f"{file}: its first image {first} is in none of {listed}; put the images in one")
    return _Detections(place, found.images, dict(boxes), preprocessing), len(categories)


@dataclass(frozen=True)
class _Detections(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    folder: Path
    images: list[_Image]
    boxes: dict[int, list[_Box]]
    preprocessing: Preprocessing | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        one = self.images[index]
        picture = images.read(self.folder / one.file_name)
        found, (width, height) = self.boxes.get(one.id, []), picture.size
        boxes = torch.tensor([box.bbox for box in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        transforms: Any = torchvision().transforms
        if self.preprocessing is None:
            image = transforms.functional.to_tensor(picture)
        else:
            rows, columns = self.preprocessing.crop
            boxes *= torch.tensor([columns / width, rows / height] * 2)
            resize = transforms.Resize((rows, columns), images.interpolation(self.preprocessing))
            image = transforms.Compose([resize, *images.finished(self.preprocessing)])(picture)
        return image, {
            "boxes": boxes,
            "labels": torch.tensor([box.category_id for box in found], dtype=torch.int64),
            "iscrowd": torch.tensor([int(box.iscrowd) for box in found], dtype=torch.int64),
        }


def _listed(items: list[Any]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    pictures, targets = zip(*items, strict=True)
    return list(pictures), list(targets)


def _stacked(items: list[Any]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    pictures, targets = _listed(items)
    return torch.stack(pictures), targets
