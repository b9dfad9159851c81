"""What an engine offers: the members that its module has."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from zeropoint.graph.program import Program
from zeropoint.targets.processor import Processor
from zeropoint.targets.target import Target

PROCESSOR = "zeropoint_processor"
"""In an artefact's metadata: the kind of processor that it was quantized for."""
SIGNATURE = "zeropoint_signature"
"""In an artefact's metadata: the Program's signature as text."""
Run = Callable[..., tuple[Tensor, ...]]
KEPT = 4  # a data set needs three: the batch timed, the batch evaluated, and the shorter last one
"""A call of a model: tensors in, a tuple of tensors out."""
LayerSeconds = Callable[[Program, Path, int, int], list[tuple[float, tuple[str, ...]]]]


class Engine(Protocol):
    """An engine is a module of ``zeropoint.engines``. Its import needs none of PACKAGES."""

    PACKAGES: tuple[str, ...]
    """The Python packages that the engine needs."""

    ENDINGS: tuple[str, ...]
    """The endings of the file names of its artefacts; no other engine has the same."""

    PROGRAM_ENDINGS: tuple[str, ...]
    """Those of ENDINGS whose files are saved Programs, which ``zeropoint.graph.program.load`` opens."""

    @property
    def layer_seconds(self) -> LayerSeconds | None:
        """The time of each kernel of an artefact, and the names of the Program's nodes in the kernel.

        Called with the Program, its artefact, the number of threads and the number of calls to measure. None
        if the engine cannot measure kernels.
        """

    def import_packages(self) -> None:
        """Imports what ``load`` needs, so that the time of the import can be measured apart from it."""

    def target_for(self, processor: Processor) -> Target:
        """The placement rules for a kind of processor."""

    def unsupported(self, method: str) -> str | None:
        """Why the engine cannot run a method on this machine; None if it can."""

    def artefact_name(self, program: Program) -> str:
        """The ending of the artefact's file name, one of ENDINGS."""

    def lower(self, program: Program, path: Path) -> None:
        """Writes the artefact of a Program at ``path``, for as many threads as PyTorch has."""

    def load(self, path: Path, threads: int, kept: int = KEPT) -> Run:
        """The artefact at ``path``, ready to run on so many threads.

        It may be compiled for so many shapes of inputs; one form serves all others.
        """

    def damage(self, path: Path) -> str | None:
        """What is wrong with the artefact's files by the digests in them, in words; None if nothing is.

        Files that earlier versions wrote have no digests.
        """

    def settings(self, path: Path) -> dict[str, Any]:
        """What ``load`` runs the artefact with, beside the number of threads, as JSON can hold it."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of the artefact at ``path``; they may be missing."""

    def metadata(self, path: Path) -> Mapping[str, str]:
        """What the file says of its Program, under PROCESSOR and SIGNATURE; older files lack some of it."""

    def example_inputs(self, path: Path, batch_size: int) -> tuple[Tensor, ...] | None:
        """Inputs of the shapes and types that an artefact takes; None if the file does not say.

        Raises InputError for an artefact that was compiled for another batch size.
        """

    def integer_operators(self, program: Program, path: Path) -> set[str]:
        """The names of the Program's nodes that the artefact computes in integers."""
