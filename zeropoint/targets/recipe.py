"""Recipe: which layers get which scheme, as rows in order; later rows override earlier ones."""

import fnmatch
import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from zeropoint.errors import InputError, check_fields, check_name, closest

if TYPE_CHECKING:  # the command line's help needs no torch
    from zeropoint.numerics.scheme import Scheme

GRANULARITIES = ("per-tensor", "per-channel", "per-group")
GROUP, SMALL_GROUP = 128, 32  # inputs that share a scale: in a layer of at least 128 inputs, and in others

WeightBits = Annotated[int, msgspec.Meta(ge=2, le=8)]
ActivationBits = Annotated[int, msgspec.Meta(ge=2, le=16)]
GroupSize = Annotated[int, msgspec.Meta(ge=2)]

# Names of layers by their place in the network, beside globs over module names.
FIRST_AND_LAST = "@first-and-last"
EMBEDDINGS = "@embeddings"
PLACES = (FIRST_AND_LAST, EMBEDDINGS)


@dataclass(frozen=True)
class Row:
    """The scheme of the layers that ``layers`` names: a glob over module names, or one of PLACES.

    None leaves a value to the rows before it, and to the target engine's own rules. A row for a module holds
    for all modules in it. ``weight_bits`` are 2 to 8, ``activation_bits`` (of what enters) and
    ``output_bits`` (of what leaves, at least) 2 to 16. ``weight_granularity`` is per-tensor, per-channel or
    per-group; ``group_size`` is the number of inputs that share a scale in a linear layer, by default 128, or
    32 if the layer has fewer inputs. ``float`` keeps the layers float, ``float_inputs`` what enters
    them: their weights alone are integers.

    Raises InputError for a value that is not supported.
    """

    layers: str = "*"
    weight_bits: WeightBits | None = None
    activation_bits: ActivationBits | None = None
    output_bits: ActivationBits | None = None
    weight_symmetric: bool | None = None
    activation_symmetric: bool | None = None
    weight_granularity: str | None = None
    group_size: GroupSize | None = None
    float: bool | None = None
    float_inputs: bool | None = None

    def __post_init__(self) -> None:
        if self.weight_granularity is not None:
            check_name("weight_granularity", self.weight_granularity, GRANULARITIES)
        check_fields(self)
        if self.group_size is not None and self.weight_granularity != "per-group":
            raise InputError("a group size goes with --weight-granularity per-group")
        if self.layers.startswith("@") and self.layers not in PLACES:
            raise InputError(f"unknown place '{self.layers}'; valid: {', '.join(PLACES)}")

    def weights(self, default: "Scheme") -> "Scheme":
        """The scheme of weights, or of a group of them: ``default`` with what this row says."""
        chosen = self.weight_granularity or default.granularity
        return replace(
            default,
            bits=self.weight_bits or default.bits,
            symmetric=default.symmetric if self.weight_symmetric is None else self.weight_symmetric,
            granularity="per-tensor" if chosen == "per-tensor" else "per-channel",
        )

    def activations(self, default: "Scheme") -> "Scheme":
        """The scheme of what enters: ``default`` with what this row says."""
        symmetric = default.symmetric if self.activation_symmetric is None else self.activation_symmetric
        return replace(default, bits=self.activation_bits or default.bits, symmetric=symmetric)

    @property
    def takes_integers(self) -> bool:
        """Whether what enters the layers may be integers."""
        return not (self.float or self.float_inputs)

    def group(self, inputs: int) -> int | None:
        """How many of the ``inputs`` to an output share a scale; None if all do."""
        size = self.group_size or (GROUP if inputs >= GROUP else SMALL_GROUP)
        fits = self.weight_granularity == "per-group" and size < inputs and inputs % size == 0
        return size if fits else None


Recipe = tuple[Row, ...]
_VALUES = tuple(field.name for field in fields(Row) if field.name != "layers")


@functools.lru_cache(maxsize=4096)
def merged(recipe: Recipe, module: str, places: tuple[str, ...] = ()) -> Row:
    """What a recipe says of the layer of this module name at these PLACES, as one row."""
    values: dict[str, object] = {}
    for row in recipe:
        if row.layers in places or matches(module, (row.layers,)):
            values |= {name: value for name in _VALUES if (value := getattr(row, name)) is not None}
    return Row(module or "*", **values)  # type: ignore[arg-type]  # values of rows


def check_patterns(recipe: Sequence[Row], modules: list[str], option: str) -> None:
    """Raises InputError for a row that matches none of the model's modules: most likely a typing error."""
    for row in recipe:
        if row.layers not in PLACES and not any(matches(name, (row.layers,)) for name in modules):
            hint = closest(row.layers, modules)
            raise InputError(f"{option} '{row.layers}' matches no module of the model; {hint}")


def load(path: Path) -> Recipe:
    """The rows of a JSON file: a list of objects with the fields of Row.

    Raises InputError for a file that cannot be read, is not such a list, or has a value that is not
    supported.
    """
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=list[dict[str, object]])
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"the recipe {path} is not a JSON list of rows: {error}") from error
    return from_rows(rows, f"the recipe {path}")


def from_rows(rows: Sequence[dict[str, object]], where: str) -> Recipe:
    """Rows from plain values; raises InputError that names the row."""
    recipe = []
    for number, row in enumerate(rows, 1):
        if unknown := row.keys() - {"layers", *_VALUES}:
            name = sorted(unknown)[0]
            raise InputError(f"{where}, row {number}: unknown field '{name}'; {closest(name, _VALUES)}")
        try:
            recipe.append(Row(**row))  # type: ignore[arg-type]  # which it checks itself
        except InputError as error:
            raise InputError(f"{where}, row {number}: {error}") from error
    return tuple(recipe)


def plain(recipe: Sequence[Row]) -> list[dict[str, object]]:
    """The rows as plain values, without those that say nothing."""
    return [{key: value for key, value in asdict(row).items() if value is not None} for row in recipe]


def text(recipe: Sequence[Row]) -> str:
    """The recipe as JSON, a row per line; ``load`` reads it back."""
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in plain(recipe)) + "\n]\n"


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a module name matches one of the globs, itself or by a module that contains it."""
    parents = [".".join(name.split(".")[: i + 1]) for i in range(name.count(".") + 1)]
    return any(
        fnmatch.fnmatchcase(parent, pattern) if set(pattern) & set("*?[") else parent == pattern
        for pattern in patterns
        for parent in parents
    )


def float_row(recipe: Recipe, module: str) -> str | None:
    """The glob of the row that keeps a module float; None if none does."""
    if not merged(recipe, module).float:
        return None
    return next(row.layers for row in reversed(recipe) if row.float and matches(module, (row.layers,)))
