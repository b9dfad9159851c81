"""The ExecuTorch engine: quantize/dequantize pairs in a ``.pte``, which its XNNPACK delegate runs in int8."""

from typing import TYPE_CHECKING

from zeropoint.engines.executorch.lowering import lower
from zeropoint.engines.executorch.run import (
    damage,
    example_inputs,
    files,
    integer_operators,
    load,
    metadata,
    runtime,
    settings,
)
from zeropoint.engines.executorch.target import target_for
from zeropoint.graph.program import Program

if TYPE_CHECKING:
    from zeropoint.engines.engine import LayerSeconds

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

PACKAGES: tuple[str, ...] = ("executorch",)
ENDINGS: tuple[str, ...] = (".pte",)
PROGRAM_ENDINGS: tuple[str, ...] = ()
layer_seconds: "LayerSeconds | None" = None


def import_packages() -> None:
    """Imports ExecuTorch's runtime."""
    runtime()


def unsupported(method: str) -> str | None:
    """Why ExecuTorch cannot run a method on this machine, or None."""
    return "XNNPACK has no bfloat16 kernels for whole networks" if method == "bf16" else None


def artefact_name(program: Program) -> str:
    """The same ending for all Programs."""
    return ENDINGS[0]
