"""Two inspections side by side: which layers are the same, what differs, and what was folded into what."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from zeropoint.errors import InputError, closest
from zeropoint.inspection.facts import Inspection, Key, Layer, Pair, keys
from zeropoint.targets.recipe import matches


def pairs(before: Inspection, after: Inspection) -> tuple[Pair, ...]:
    """The layers of two Programs of one model side by side, in the order of ``after``, then what is gone.

    Layers are the same by name, operator and order. Raises InputError if the two have no layer in common.
    """
    old, new = _keyed(before.layers), _keyed(after.layers)
    if old and new and not old.keys() & new.keys():
        first, second = next(iter(old.values())), next(iter(new.values()))
        raise InputError(
            f"the two have no layer in common ('{first.name}' and '{second.name}' are their first);"
            " give two Programs of the same model"
        )
    inside, inside_before = _inside(after.layers), _inside(before.layers)
    folded: dict[str, list[Layer]] = {}
    gone = []
    for key, layer in old.items():
        if key in new:
            continue
        if layer.name in inside:
            folded.setdefault(inside[layer.name], []).append(layer)
        else:
            gone.append(Pair(layer.name, layer, None, (), ("only in the first",)))
    both = []
    for key, layer in new.items():
        parts, layer_before = tuple(folded.pop(layer.name, ())), old.get(key)
        if layer_before is not None:
            changes = _changes(layer_before, layer)
        elif layer.name in inside_before:
            changes = (f"inside {inside_before[layer.name]} in the first",)
        else:
            changes = ("only in the second",)
        both.append(Pair(layer.name, layer_before, layer, parts, changes))
    return (*both, *gone)


def only(
    inspections: Sequence[Inspection], pairs: Sequence[Pair], pattern: str
) -> tuple[list[Inspection], tuple[Pair, ...]]:
    """The same with those layers alone that have a name, match a glob, or lie in such a module.

    Raises InputError, with the closest names, if none does.
    """
    inside = _inside(inspections[-1].layers)  # what is asked for may be folded into another layer
    names = {layer.name for inspection in inspections for layer in inspection.layers} | inside.keys()
    found = {pattern} & names or {name for name in names if matches(name, (pattern,))}
    found |= {inside[name] for name in found & inside.keys()}
    if not found:
        raise InputError(f"--layer '{pattern}' matches no layer of the model; {closest(pattern, names)}")
    kept = [
        replace(inspection, layers=tuple(layer for layer in inspection.layers if layer.name in found))
        for inspection in inspections
    ]
    return kept, tuple(pair for pair in pairs if pair.name in found)


def _keyed(layers: tuple[Layer, ...]) -> dict[Key, Layer]:
    return dict(zip(keys((layer.name, layer.operator) for layer in layers), layers, strict=True))


def _inside(layers: tuple[Layer, ...]) -> dict[str, str]:
    """By the name of what is fused, the layer that it is inside of."""
    return {fused.module: layer.name for layer in layers for fused in layer.fused if fused.module}


def _changes(before: Layer, after: Layer) -> tuple[str, ...]:
    parts: dict[str, Callable[[Layer], Any]] = {
        "state": lambda layer: layer.state,
        "shape": lambda layer: [w.shape for w in layer.weights],
        "weight bits": lambda layer: [w.grid.bits if w.grid else w.dtype for w in layer.weights],
        "weight scale": lambda layer: [w.grid and (w.grid.scale, w.grid.zero_point) for w in layer.weights],
        "input bits": lambda layer: layer.input_bits,
        "input scale": lambda layer: [p.grid and (p.grid.scale, p.grid.zero_point) for p in layer.inputs],
        "output scale": lambda layer: [(grid.scale, grid.zero_point) for grid in layer.outputs],
        "fused": lambda layer: [(part.module, part.operator) for part in layer.fused],
        "bytes": lambda layer: layer.bytes,
    }
    return tuple(name for name, part in parts.items() if part(before) != part(after))
