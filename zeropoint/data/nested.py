"""Nested: the tensors in tuples, lists, dicts, dataclasses and other objects, taken out and put back."""

import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

DEPTH = 20  # objects may refer to themselves
Rebuild = Callable[[Sequence[Any]], Any]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """The place of a tensor in a structure: its ``number`` among all tensors, in order."""

    number: int


def flatten(value: Any) -> tuple[dict[str, Tensor], Any]:
    """The tensors in a value, by path, and its structure: the value with a Leaf for each tensor.

    A path has the keys, numbers and field names from outside to inside, as in ``states.0``; a tensor alone
    has an empty one. The value is not changed.
    """
    tensors: dict[str, Tensor] = {}

    def taken(path: str, tensor: Tensor) -> Leaf:
        tensors[path] = tensor
        return Leaf(len(tensors) - 1)

    return tensors, _mapped(value, Tensor, taken)


def restore(structure: Any, tensors: Sequence[Any]) -> Any:
    """The value of a structure with these tensors in the places of its leaves."""
    if isinstance(structure, Leaf):  # most models give one tensor
        return tensors[structure.number]
    return _mapped(structure, Leaf, lambda _, leaf: tensors[leaf.number])


def replaced(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A value with every part of a ``kind`` changed."""
    return _mapped(value, kind, lambda _, part: change(part))


def leaf_paths(structure: Any) -> list[str]:
    """The path of every Leaf of a structure, in order."""
    return [path for path, value in _parts(structure) if isinstance(value, Leaf)]


def constants(value: Any) -> dict[str, Any]:
    """What a value holds beside tensors, by path: None, numbers, strings and other objects."""
    return {path: part for path, part in _parts(value) if not isinstance(part, Tensor | Leaf)}


def plain(structure: Any, *, keep: bool) -> Any:
    """A structure of tuples, lists and dicts alone; constants are left out unless ``keep``.

    Of those torch reads numbers, booleans and None back from a file; None is in the place of any other.
    """
    if (inside := _inside(structure)) is None:
        return structure if isinstance(structure, Leaf | int | float) else None
    items = [
        (key, plain(part, keep=keep)) for key, part in inside[0] if keep or any(map(_is_leaf, _parts(part)))
    ]
    if isinstance(structure, tuple | list) and not hasattr(structure, "_fields"):
        parts = [part for _, part in items]
        return parts if isinstance(structure, list) else tuple(parts)
    return dict(items)


def _is_leaf(part: tuple[str, Any]) -> bool:
    return isinstance(part[1], Leaf)


def to_json(structure: Any) -> Any:
    """A structure as plain JSON; objects other than containers become null."""
    if isinstance(structure, Leaf):
        return {"leaf": structure.number}
    if structure is None or isinstance(structure, bool | int | float | str):
        return structure
    if (inside := _inside(structure)) is None:
        return None
    items = [[key, to_json(part)] for key, part in inside[0]]
    if isinstance(structure, tuple | list) and not hasattr(structure, "_fields"):
        return {"list" if isinstance(structure, list) else "tuple": [part for _, part in items]}
    return {"dict" if type(structure) is dict else "record": items}


def from_json(plain: Any) -> Any:
    """The structure of which ``to_json`` made JSON. A dataclass or another object comes back as a Record."""
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind == "leaf":
        return Leaf(int(value))
    if kind in ("list", "tuple"):
        parts = [from_json(part) for part in value]
        return parts if kind == "list" else tuple(parts)
    fields = {key: from_json(part) for key, part in value}
    return fields if kind == "dict" else Record(fields)


class Record(dict[str, Any]):
    """The fields of a dataclass or another object whose class a file does not hold: items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _mapped(value: Any, kind: type, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """A copy of ``value`` with every part of a ``kind`` changed; the very value if it has none."""
    if isinstance(value, kind):
        return change(path, value)
    if (inside := _inside(value, path)) is None:
        return value
    items, rebuild = inside
    parts = [_mapped(part, kind, change, _joined(path, key)) for key, part in items]
    same = all(old is new for (_, old), new in zip(items, parts, strict=True))
    return value if same else rebuild(parts)


def _parts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a value that is no container, by path."""
    if (inside := _inside(value, path)) is None:
        yield path, value
        return
    for key, part in inside[0]:
        yield from _parts(part, _joined(path, key))


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


_PLAIN = (
    str, bytes, int, float, complex, type(None), torch.dtype, torch.device, torch.Size, Tensor, Leaf,
    nn.Module, type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType,
)  # fmt: skip


def _inside(value: Any, path: str = "") -> tuple[list[tuple[Any, Any]], Rebuild] | None:
    """The parts of a container by key, and what makes such a container of others; None for anything else."""
    if isinstance(value, _PLAIN) or path.count(".") >= DEPTH:
        return None
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        if names is not None:
            return list(zip(names, value, strict=True)), lambda parts: type(value)(*parts)
        return list(enumerate(value)), lambda parts: type(value)(parts)
    if isinstance(value, Mapping):
        keys = list(value)
        return list(value.items()), lambda parts: _mapping_like(value, keys, parts)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        names = list(getattr(value, "__dict__", ()))
    if not names:
        return None
    return [(name, getattr(value, name)) for name in names], lambda parts: _object_like(value, names, parts)


def _mapping_like(value: Any, keys: list[Any], parts: Sequence[Any]) -> Any:
    """A mapping of the same class, such as an OrderedDict or the output class of a library."""
    pairs = dict(zip(keys, parts, strict=True))
    if type(value) is dict:
        return pairs
    made = copy.copy(value)
    for key, part in pairs.items():
        made[key] = part
    return made


def _object_like(value: Any, names: list[str], parts: Sequence[Any]) -> Any:
    made = copy.copy(value)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(made, name, part)
    return made
