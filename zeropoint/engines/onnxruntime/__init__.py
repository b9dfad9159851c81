"""The ONNX Runtime engine: quantize/dequantize pairs in ONNX, which it fuses into its integer kernels."""

from zeropoint.engines.onnxruntime.lowering import lower
from zeropoint.engines.onnxruntime.profile import integer_operators, layer_seconds
from zeropoint.engines.onnxruntime.run import damage, example_inputs, files, load, metadata, settings
from zeropoint.engines.onnxruntime.target import target_for
from zeropoint.graph.program import Program

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

PACKAGES: tuple[str, ...] = ("onnxruntime", "onnx", "onnxscript")
ENDINGS: tuple[str, ...] = (".onnx",)
PROGRAM_ENDINGS: tuple[str, ...] = ()


def import_packages() -> None:
    """Imports onnxruntime."""
    import onnxruntime  # noqa: F401


def unsupported(method: str) -> str | None:
    """Why ONNX Runtime cannot run a method on this machine, or None."""
    return "ONNX Runtime has no bfloat16 kernels for this processor" if method == "bf16" else None


def artefact_name(program: Program) -> str:
    """The same ending for all Programs."""
    return ENDINGS[0]
