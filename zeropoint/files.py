"""Reading JSON, and writing files whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from zeropoint.errors import InputError

_T = TypeVar("_T")


def read_json(path: str | os.PathLike[str], fix: str) -> Any:
    """The value in a JSON file. Raises InputError if it cannot be read; ``fix`` is the end of its line."""
    try:
        return msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; {fix}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"cannot read {path}: truncated or not JSON ({error}); {fix}") from error


def as_type(value: Any, kind: type[_T], path: str | os.PathLike[str], fix: str) -> _T:
    """The dataclass ``kind`` from a value that ``read_json`` read; unknown keys are ignored.

    Raises InputError, with the place in the file, if a field is missing or has another type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"cannot read {path}: {error}; {fix}") from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to, in a temporary folder beside ``path``; moved to ``path`` on success.

    On any failure, Ctrl-C included, the temporary folder is removed and ``path`` stays unchanged. The yielded
    file keeps the name of ``path``, since some writers choose a format by it; files that a writer puts beside
    it (the weights of an OpenVINO model) move along, before it.

    Raises InputError if ``path`` cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; give a file name")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    try:
        yield folder / path.name
        for beside in folder.iterdir():
            if beside.name != path.name:
                os.replace(beside, path.parent / beside.name)
        os.replace(folder / path.name, path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another place"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises InputError if no file can be written at ``path``, before what is to be written is computed."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give a file name")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"cannot write {path}: {above} is no folder to write in; choose another place")


def check_new(folder: str | os.PathLike[str]) -> None:
    """Raises InputError if ``folder`` is neither missing nor empty, or cannot be made."""
    path = Path(folder)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{folder} is not empty; give a new folder")
    check_writable(path / "file")


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder beside ``path``, moved to ``path`` on success; on a failure nothing stays.

    Raises InputError if ``path`` is neither missing nor empty, or cannot be written.
    """
    check_new(path)
    path = Path(path)
    above = make_folder(path.absolute().parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=above))
    try:
        made = make_folder(temporary / path.name)  # with the usual permissions, which mkdtemp does not give
        yield made
        os.replace(made, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def empty_removed(folder: Path) -> Iterator[None]:
    """Removes the folder if the block fails before anything is written to it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # of a folder with files in it
            folder.rmdir()
        raise


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder at ``path``, created if it is missing; raises InputError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {path}: {error.strerror or error}; choose another folder"
        ) from error
    return Path(path)
