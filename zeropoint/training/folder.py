"""The folder of one training: its settings, checkpoint, metrics and, in the end, its Program."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeropoint.errors import InputError
from zeropoint.files import atomic_write, make_folder
from zeropoint.training.record import FILE as METRICS

SETTINGS, CHECKPOINT, PROGRAM = "settings.json", "last.checkpoint", "program.pt2"


@dataclass(frozen=True)
class Folder:
    """Where a training keeps what it made so far."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The last state, to go on from."""
        return self.path / CHECKPOINT

    @property
    def program(self) -> Path:
        """The Program, when the training is done."""
        return self.path / PROGRAM

    @property
    def metrics(self) -> Path:
        """A line of JSON for every few steps and every epoch."""
        return self.path / METRICS


def open_folder(folder: Folder, settings: dict[str, Any], *, resume: bool) -> None:
    """Makes the folder for a training with these ``settings``, plain values, or sees that it resumes one.

    Raises InputError where there is another training in it, none to resume, or it cannot be written.
    """
    file = folder.path / SETTINGS
    settings = json.loads(json.dumps(settings))
    if not file.exists():
        if resume:
            raise InputError(f"{folder.path} holds no training to resume; leave --resume out")
        make_folder(folder.path)
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return
    if not resume:
        raise InputError(f"{folder.path} holds a training already; give --resume, or another --out")
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}; delete {folder.path} to begin anew") from error
    for name in [*settings, *earlier]:
        if earlier.get(name) != settings.get(name):
            then, now = (_brief(of.get(name)) for of in (earlier, settings))
            raise InputError(
                f"{folder.path} holds a training with {name} {then}, not {now};"
                " give the same again, or another --out"
            )


def _brief(value: Any) -> str:
    return str(value) if not isinstance(value, str) or len(value) < 40 else f"{value[:12]}…"
