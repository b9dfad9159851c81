"""Checkpoints: how far a long pass has got, in a file, so that the same pass goes on from there."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.graph.program import Program
from zeropoint.versions import versions


@dataclass(frozen=True)
class Checkpoint:
    """The file that a pass keeps its state in; without a ``path`` nothing is kept.

    ``key`` says of which pass on what the state is: that of another key is not used, or, where it is
    ``expected``, an error.
    """

    path: Path | None
    key: str = ""
    expected: bool = False

    def load(self) -> dict[str, Any] | None:
        """The state last saved under this key, None where there is none; runs no code from the file.

        Raises InputError where it is expected, and there is a file that is damaged or of another origin.
        """
        kept = self._read()
        if kept is None and self.expected and self.path is not None and self.path.exists():
            raise InputError(
                f"cannot go on from {self.path}: it is damaged, or of other versions of zeropoint or torch;"
                " delete it to begin anew"
            )
        return kept["state"] if kept else None

    def reached(self) -> str | None:
        """How far the state that ``load`` gives had got, None where there is none."""
        kept = self._read()
        return kept["reached"] if kept else None

    def save(self, state: dict[str, Any], reached: str) -> None:
        """Puts ``state``, of tensors and plain values, in the place of the one before, which else stays.

        ``reached`` tells a person how far that is. Raises InputError where the file cannot be written.
        """
        if self.path is None:
            return
        content = io.BytesIO()  # torch's own writer to disk does not say why it fails
        torch.save({"key": self.key, "reached": reached, "state": state}, content)
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())

    @contextmanager
    def tells(self, doing: str) -> Iterator[None]:
        """Has Ctrl-C say what it interrupts, how far that had got, and where it is kept."""
        try:
            yield
        except KeyboardInterrupt:
            if (reached := self.reached()) is None:
                raise
            raise KeyboardInterrupt(f"{doing} is saved at {reached} in {self.path}") from None

    def _read(self) -> dict[str, Any] | None:
        if self.path is None:
            return None
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            return kept if kept["key"] == self.key else None
        except Exception:  # no file, a damaged one, or one of another origin, which may fail in any way
            return None


def checkpoint(path: Path | None, *of: object, expected: bool = False) -> Checkpoint:
    """The Checkpoint at ``path`` of a pass that is told from others by ``of``: Programs, tensors, settings.

    With other versions of zeropoint or torch it is another pass, too: they may compute something else.
    """
    if path is None:
        return Checkpoint(None)
    digest = hashlib.sha256(repr(versions()).encode())
    for part in of:
        if isinstance(part, Program):
            update_program(digest, part)
        elif isinstance(part, Tensor):
            update(digest, [("tensor", part)])
        else:
            digest.update(repr(part).encode())
    return Checkpoint(path, digest.hexdigest(), expected)


def fingerprint(program: Program) -> str:
    """A hash of a Program's graph and weights."""
    return checkpoint(Path(), program).key


def update_program(digest: "hashlib._Hash", program: Program) -> None:
    """Takes a Program's graph and weights into a digest."""
    digest.update(program.module.code.encode())
    update(digest, sorted(program.module.state_dict().items()))


def update(digest: "hashlib._Hash", tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Takes the names, shapes and values of tensors into a digest."""
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def beside(program: str | os.PathLike[str]) -> Path:
    """Where the command line keeps the checkpoint of a Program that is to be saved at ``program``."""
    return Path(f"{os.fspath(program)}.checkpoint")
