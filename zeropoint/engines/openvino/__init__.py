"""The OpenVINO engine. Its PyTorch front end reads fake-quantize nodes and integer weights as they are."""

from zeropoint.engines.openvino.lowering import lower
from zeropoint.engines.openvino.package import core, openvino
from zeropoint.engines.openvino.profile import integer_operators, layer_seconds
from zeropoint.engines.openvino.run import damage, example_inputs, files, load, metadata, settings
from zeropoint.engines.openvino.target import target_for
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

PACKAGES: tuple[str, ...] = ("openvino",)
ENDINGS: tuple[str, ...] = (".openvino.xml",)
PROGRAM_ENDINGS: tuple[str, ...] = ()


def import_packages() -> None:
    """Imports openvino."""
    openvino()


def unsupported(method: str) -> str | None:
    """Why OpenVINO cannot run a method on this machine, or None."""
    if method == "bf16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this processor has no bfloat16 instructions that OpenVINO uses"
    return None


def artefact_name(program: Program) -> str:
    """The same ending for all Programs."""
    return ENDINGS[0]
