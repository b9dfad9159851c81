"""The folder of one training: its settings, checkpoint, metrics and, at the end, its Program."""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zeropoint.errors import InputError
from zeropoint.files import atomic_write, make_folder
from zeropoint.training.record import FILE as METRICS

SETTINGS, CHECKPOINT, PROGRAM = "settings.json", "last.checkpoint", "program.pt2"


@dataclass(frozen=True)
class Folder:
    """Where a training keeps its files."""

    path: Path

    @property
    def settings(self) -> Path:
        """How it trains, as JSON."""
        return self.path / SETTINGS

    @property
    def checkpoint(self) -> Path:
        """The last state, from which training goes on."""
        return self.path / CHECKPOINT

    @property
    def program(self) -> Path:
        """The Program, written when the training is done."""
        return self.path / PROGRAM

    @property
    def metrics(self) -> Path:
        """A line of JSON for every few steps and every epoch."""
        return self.path / METRICS


@contextmanager
def open_folder(
    folder: Folder, settings: dict[str, Any], *, resume: bool, may_rise: Collection[str] = ()
) -> Iterator[None]:
    """Makes the folder for a training with these ``settings`` (plain values), or checks that it resumes one.

    A resumed training has the same settings, but those in ``may_rise`` may be larger than before. If the
    training in the block fails or is interrupted before its first checkpoint, a new folder is removed again.

    Raises InputError if the folder holds another training or none to resume, or cannot be written.
    """
    settings = msgspec.json.decode(msgspec.json.encode(settings))
    if resume:
        _check_same(folder, settings, may_rise)
    elif folder.settings.exists():
        raise InputError(f"{folder.path} holds a training already; give --resume, or another --out")
    is_new = not folder.path.exists()
    make_folder(folder.path)
    with atomic_write(folder.settings) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
    try:
        yield
    except BaseException:
        if not resume and not any(folder.path.rglob(CHECKPOINT)):
            folder.settings.unlink(missing_ok=True)
            if is_new:
                shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _check_same(folder: Folder, settings: dict[str, Any], may_rise: Collection[str]) -> None:
    if not folder.settings.exists():
        raise InputError(f"{folder.path} holds no training to resume; leave --resume out")
    try:
        earlier = msgspec.json.decode(folder.settings.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"cannot read {folder.settings}: {error}; delete {folder.path} to start again"
        ) from error
    for name in [*settings, *earlier]:
        then, now = earlier.get(name), settings.get(name)
        is_new = name not in earlier and not now  # an option of a later version that is not given
        has_risen = name in may_rise and isinstance(then, int) and isinstance(now, int) and now > then
        if then != now and not is_new and not has_risen:
            or_more = " or more" if name in may_rise else ""
            raise InputError(
                f"{folder.path} holds a training with {name} {_brief(then)}, not {_brief(now)};"
                f" give the same{or_more}, or another --out"
            )


def _brief(value: Any) -> str:
    if value in ("", None):
        return "none"
    return str(value) if not isinstance(value, str) or len(value) < 40 else f"{value[:12]}…"
