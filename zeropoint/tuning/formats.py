"""Formats: what a layer can be computed in, and a candidate: a format for each layer."""

import glob
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from zeropoint.errors import InputError
from zeropoint.targets.options import Options
from zeropoint.targets.recipe import Row

FLOAT, INT8 = "float", "W8A8"
DEFAULT = (FLOAT, INT8, "W8A16", "W4A8", "W8A32", "W4A32")
FLOAT_BITS = 32


@dataclass(frozen=True)
class Format:
    """The bits of a layer's weights and of what enters it; 32 for float."""

    name: str
    weight_bits: int
    activation_bits: int

    @property
    def is_integer(self) -> bool:
        """Whether engines compute in integers."""
        return self.weight_bits <= 8 and self.activation_bits <= 8

    def row(self, layers: str) -> Row:
        """What a recipe says of these layers: everything, so that it overrides all rows before it."""
        if self.weight_bits == FLOAT_BITS:
            return Row(layers, float=True)
        if self.activation_bits == FLOAT_BITS:
            return Row(layers, weight_bits=self.weight_bits, float=False, float_inputs=True)
        return Row(layers, self.weight_bits, self.activation_bits, float=False, float_inputs=False)


def find(name: str) -> Format:
    """The format of a name: float, W8A8, W8A16, or W4A32 for integer weights alone.

    Raises InputError for any other form, and for bits that are not supported.
    """
    if name == FLOAT:
        return Format(FLOAT, FLOAT_BITS, FLOAT_BITS)
    found = re.fullmatch(r"[Ww](\d+)[Aa](\d+)", name)
    if found is None:
        raise InputError(
            f"'{name}' is no format; give {FLOAT}, W8A8, W4A8, W8A16, or W4A32 for weights alone"
        )
    made = Format(name.upper(), int(found[1]), int(found[2]))
    made.row("*")  # raises for what is not supported
    return made


@dataclass(frozen=True)
class Candidate:
    """A model that can be made: a format for each layer by name, or one for all as ``*``."""

    engine: str
    method: str
    formats: Mapping[str, str]

    @staticmethod
    def uniform(engine: str, format: str, method: str = "static") -> "Candidate":
        """All layers in one format."""
        return Candidate(engine, method, MappingProxyType({"*": format}))

    @property
    def name(self) -> str:
        """A name for files: the format if it is one, else a digest."""
        if set(self.formats) == {"*"}:
            which = self.formats["*"]
        else:
            text = json.dumps(sorted(self.formats.items()))
            which = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.engine}-{self.method}-{which}"

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return set(self.formats.values()) == {FLOAT}

    def options(self, base: Options) -> Options:
        """The options that quantize so. Modules come before what they contain, which has rows of its own."""
        rows = [find(self.formats[name]).row(_exactly(name)) for name in sorted(self.formats)]
        formats = [find(name) for name in self.formats.values()]
        weights = min(8, *(one.weight_bits for one in formats))
        inputs = min(16, *(one.activation_bits for one in formats))
        return replace(base, weight_bits=weights, activation_bits=inputs, recipe=(*base.recipe, *rows))


def _exactly(layer: str) -> str:
    return layer if layer == "*" else glob.escape(layer)


def checked(names: Sequence[str]) -> tuple[str, ...]:
    """The formats by their names, with float and W8A8, against which all others are told."""
    return tuple(dict.fromkeys([FLOAT, INT8, *(find(name).name for name in names)]))
