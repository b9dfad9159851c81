"""Processor: what a CPU can do with integers, as data, and which kind this machine has."""

import functools
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path

from zeropoint.errors import InputError, InputWarning

NATIVE, ARM = "native", "arm"

# What decides which int8 and bf16 kernels an engine can use, on x86 and on Arm.
INSTRUCTION_SETS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm",
)  # fmt: skip


@dataclass(frozen=True)
class Processor:
    """A kind of CPU, for which Programs are quantized.

    ``words`` say for people what it is. ``flags``: the instruction sets, any of which makes a CPU one of the
    kind, as ``/proc/cpuinfo`` names them; none for a kind that no CPU is by itself.
    ``saturates``: integer kernels multiply unsigned by signed bytes and add two such products in 16 bits,
    which saturate (``vpmaddubsw``); others add them in 32 bits, which are exact.
    """

    name: str
    words: str
    flags: tuple[str, ...]
    saturates: bool


# The first one that a machine's flags name is its kind. In oneDNN, in ONNX Runtime's MLAS and so in all three
# engines kernels without VNNI saturate; those with it do not (``vpdpbusd``), nor do those of Arm and AMX.
PROCESSORS = {
    processor.name: processor
    for processor in (
        Processor("amx", "x86 with AMX", ("amx_int8",), saturates=False),
        Processor("vnni", "x86 with VNNI", ("avx512_vnni", "avx_vnni"), saturates=False),
        Processor("avx512", "x86 with AVX-512, without VNNI", ("avx512f",), saturates=True),
        Processor("avx2", "x86 with AVX2, without VNNI", ("avx2",), saturates=True),
        Processor(ARM, "64-bit Arm", ("asimddp", "i8mm"), saturates=False),
        Processor("any", "any processor", (), saturates=True),
    )
}


def find(name: str) -> Processor:
    """The Processor of that name, ``native`` for this machine's; raises InputError for an unknown name."""
    if name == NATIVE:
        return native()
    if name not in PROCESSORS:
        raise InputError(f"unknown processor '{name}'; valid: {', '.join((NATIVE, *PROCESSORS))}")
    return PROCESSORS[name]


@functools.cache
def native() -> Processor:
    """The kind of this machine's CPU; ``any`` where the system does not tell, which is right on all."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return PROCESSORS[ARM]
    try:
        return of_instruction_sets(parse_cpuinfo(Path("/proc/cpuinfo").read_text())[1])
    except OSError:  # not Linux
        return PROCESSORS["any"]


def of_instruction_sets(sets: list[str]) -> Processor:
    """The kind of a CPU that has these instruction sets, as ``/proc/cpuinfo`` names them."""
    return next((one for one in PROCESSORS.values() if set(one.flags) & set(sets)), PROCESSORS["any"])


def parse_cpuinfo(text: str) -> tuple[str, list[str]]:
    """The model name, "" if it is not given, and the instruction sets that matter, of ``/proc/cpuinfo``."""
    first: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    flags = set((first.get("flags") or first.get("Features") or "").split())  # Arm says "Features"
    return first.get("model name", ""), [name for name in INSTRUCTION_SETS if name in flags]


def warn_of(made_for: str, what: str, here: Processor | None = None) -> None:
    """Warns where ``what``, made for the processor of that name, is not for ``here``: by default this one."""
    if wrong := mismatch(made_for, here):
        warnings.warn(InputWarning(f"{what} was {wrong}"), stacklevel=3)


def mismatch(made_for: str, here: Processor | None = None) -> str | None:
    """What becomes of an artefact for the processor of that name on this one, and the fix; None if it is fit.

    It is where the name is empty: of a float network, or of an older file, which does not tell.
    """
    here, made = here or native(), PROCESSORS.get(made_for)
    if made is None or made.name == "any" or made.saturates == here.saturates:
        return None
    fix = f"quantize with --processor {here.name}, or any for all processors"
    if here.saturates:
        return f"made for {made.words}: its int8 results overflow on this one, {here.words}; {fix}"
    return f"made for {made.words}: right on this one, {here.words}, but not as accurate as can be; {fix}"
