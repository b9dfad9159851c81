"""The PyTorch engine: eager for float32; everything else compiled ahead of time by the PyTorch compiler.

The compiled package holds oneDNN's int8 kernels and runs without a compiler on the machine.
"""

from zeropoint.engines.torch.lowering import artefact_name, lower
from zeropoint.engines.torch.run import (
    PACKAGE_ENDING,
    PROGRAM_ENDING,
    damage,
    example_inputs,
    files,
    integer_operators,
    load,
    metadata,
    settings,
)
from zeropoint.engines.torch.target import target_for, unsupported

__all__ = [
    "ENDINGS",
    "PACKAGES",
    "PROGRAM_ENDINGS",
    "artefact_name",
    "damage",
    "example_inputs",
    "files",
    "import_packages",
    "integer_operators",
    "layer_seconds",
    "load",
    "lower",
    "metadata",
    "settings",
    "target_for",
    "unsupported",
]

PACKAGES: tuple[str, ...] = ("torch",)
ENDINGS: tuple[str, ...] = (PACKAGE_ENDING, PROGRAM_ENDING)
PROGRAM_ENDINGS: tuple[str, ...] = (PROGRAM_ENDING,)
layer_seconds = None  # a compiled package does not measure its kernels


def import_packages() -> None:
    """Nothing to do: zeropoint imports torch itself."""
