"""Size of a saved model on disk."""

import os
from pathlib import Path

from zeropoint.errors import InputError


def on_disk(path: str | os.PathLike[str]) -> int:
    """The bytes of a file, or of all files in a folder.

    An OpenVINO ``.xml`` counts the ``.bin`` that holds its weights; an ``.onnx`` counts its external data,
    under the names that exporters use. Raises InputError if there is nothing at ``path``.
    """
    path = Path(path)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        raise InputError(f"no file or folder at {path}: give the path of a saved model")
    beside: list[Path] = []
    if path.suffix == ".xml":
        beside = [path.with_suffix(".bin")]
    elif path.suffix == ".onnx":
        beside = [path.with_name(path.name + ".data"), path.with_name(path.name + "_data")]
    return sum(file.stat().st_size for file in (path, *beside) if file.is_file())
