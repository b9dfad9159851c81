"""Samples: what a run folder keeps of its evaluation data, so that a row can be shipped later."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from zeropoint.data import Loaders
from zeropoint.data.batches import Loader, class_names, example_inputs, image_files
from zeropoint.errors import InputError
from zeropoint.files import as_type, atomic_write, read_json
from zeropoint.graph.ports import Port, ports
from zeropoint.graph.program import Program
from zeropoint.models.source import Preprocessing

SHIPPING = "shipping"  # folder in the run folder
ITEMS = 4  # kept at most: 2.4 MB of images of 224x224
_FIX = "compare again"


@dataclass(frozen=True)
class Samples:
    """What a model takes and gives, and the first items of the evaluation data.

    ``images``: the files that the items were made of, if they were files. ``preprocessing``: how; None if
    that is not known as data, and ``data`` then says in words what the data was. ``classes``: their names.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    data: str = ""
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    arrays: dict[str, Any] | None = None  # NumPy arrays by the name of the input


def of_data(program: Program, data: Loaders, batches: Loader) -> Samples:
    """The Samples of the evaluation data of a Program; ``batches`` as the user gave them."""
    made = of_inputs(program, example_inputs(data.evaluation))
    files = image_files(batches, ITEMS) if data.preprocessing is not None else ()
    made = replace(made, data=data.description or data.name)
    return prepared(made, data.preprocessing, files, class_names(batches))


def prepared(
    samples: Samples,
    preprocessing: Preprocessing | None,
    images: Sequence[str | os.PathLike[str]],
    classes: Sequence[str],
) -> Samples:
    """The Samples with the image files that their only input was made of; with classes, by number."""
    arrays = list((samples.arrays or {}).values())
    takes_images = len(arrays) == 1 and arrays[0].ndim == 4
    files = images[: len(arrays[0])] if takes_images else ()
    return replace(
        samples,
        preprocessing=preprocessing if takes_images else None,
        images=tuple(map(str, files)),
        classes=tuple(classes),
    )


def of_inputs(program: Program, inputs: tuple[Tensor, ...]) -> Samples:
    """The Samples of input tensors in order, cut to ITEMS where the size of a batch is free."""
    taken, given = ports(program)
    arrays = {
        port.name: (
            tensor if axis is None else tensor.narrow(axis, 0, min(ITEMS, tensor.shape[axis]))
        ).numpy()
        for port, tensor, axis in zip(taken, inputs, program.batch.inputs, strict=True)
    }
    return Samples(taken, given, arrays=arrays)


def save(samples: Samples, run: Path) -> None:
    """Keeps the Samples, with copies of their image files, in the folder of a run."""
    folder = run / SHIPPING
    shutil.rmtree(folder, ignore_errors=True)
    kept = []
    for number, image in enumerate(samples.images):
        name = f"{number}{Path(image).suffix.lower()}"
        with atomic_write(folder / name) as path:
            shutil.copyfile(image, path)
        kept.append(name)
    with atomic_write(folder / "inputs.npz") as path:
        np.savez(path, **(samples.arrays or {}))
    record = asdict(samples) | {"images": kept, "arrays": None}
    with atomic_write(folder / "samples.json") as path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def load(run: str | os.PathLike[str]) -> Samples:
    """The Samples in the folder of a run, with the paths of its images.

    Raises InputError if it holds none, as the runs of earlier versions, or cannot be read.
    """
    folder = Path(run) / SHIPPING
    path = folder / "samples.json"
    if not path.exists():
        raise InputError(f"{run} holds no samples to ship with: an earlier zeropoint made it; {_FIX}")
    samples = as_type(read_json(path, _FIX), Samples, path, _FIX)
    try:
        with np.load(folder / "inputs.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a damaged file may fail in any way
        raise InputError(f"cannot read {folder / 'inputs.npz'}: {error}; {_FIX}") from error
    images = tuple(str(folder / Path(image).name) for image in samples.images)
    return replace(samples, images=images, arrays=arrays)
