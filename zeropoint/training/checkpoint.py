"""Checkpoints: the state of a long pass in a file, from which the same pass continues."""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.errors import InputError, interruption_tells
from zeropoint.files import atomic_write
from zeropoint.graph.program import Program
from zeropoint.versions import versions


@dataclass(frozen=True)
class Checkpoint:
    """The file that a pass keeps its state in; without a ``path`` nothing is kept.

    ``key`` identifies the pass and its inputs. A state with another key is not used; if a state is
    ``expected``, it is an error.
    """

    path: Path | None
    key: str = ""
    expected: bool = False

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last with this key, or None; runs no code from the file.

        Raises InputError if it is expected, and the file is damaged or has another key.
        """
        kept = self._read()
        if kept is None and self.expected and self.path is not None and self.path.exists():
            raise InputError(
                f"cannot go on from {self.path}: it is damaged, or of other versions of zeropoint or torch;"
                " delete it to start again"
            )
        return kept["state"] if kept else None

    def reached(self) -> str | None:
        """How far the saved state is, or None if there is none."""
        kept = self._read()
        return kept["reached"] if kept else None

    def save(self, state: dict[str, Any], reached: str) -> None:
        """Puts ``state``, of tensors and plain values, in the place of the one before, which else stays.

        ``reached`` says how far that is, for messages. Raises InputError if the file cannot be written.
        """
        if self.path is None:
            return
        content = io.BytesIO()  # torch's own writer to disk does not say why it fails
        torch.save({"key": self.key, "reached": reached, "state": state}, content)
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def tells(self, doing: str) -> AbstractContextManager[None]:
        """The message of Ctrl-C says what it interrupts, how far that is, and where it is saved."""

        def saved() -> str:
            reached = self.reached()
            return "" if reached is None else f"{doing} is saved at {reached} in {self.path}"

        return interruption_tells(saved)

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


def update_values(digest: "hashlib._Hash", values: Sequence[Any]) -> None:
    """Takes the parts of batches into a digest: tensors, and anything else as text."""
    update(digest, [("batch", value) for value in values if isinstance(value, Tensor)])
    digest.update(repr([value for value in values if not isinstance(value, Tensor | None)]).encode())


def beside(program: str | os.PathLike[str]) -> Path:
    """Where the command line keeps the checkpoint of a Program that is to be saved at ``program``."""
    return Path(f"{os.fspath(program)}.checkpoint")
