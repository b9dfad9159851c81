"""Ports: the inputs and outputs of a Program, with names for those sizes that are free."""

import re
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from zeropoint.graph.program import Program

PLACES = {3: ("channels", "height", "width"), 4: ("channels", "depth", "height", "width")}
"""The axes of one item, by their number: images, and images of three dimensions."""
_SYMBOL = re.compile(r"\b[su]\d+\b")


@dataclass(frozen=True)
class Port:
    """An input or output: its ``name``, its type as NumPy names it, and its sizes; a free one is a name.

    Axes of the same name are of the same size; an expression such as ``height//2`` says how one follows from
    others.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def ports(program: Program) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and the outputs, in order: free sizes are called batch, height, width, length and so on."""
    graph = program.module.graph
    placeholders = graph.find_nodes(op="placeholder")
    results: Any = graph.output_node().args[0]
    names = _size_names(placeholders, program.batch.inputs)

    def port(name: str, node: Node) -> Port:
        value = node.meta["val"]
        return Port(
            name, str(value.dtype).removeprefix("torch."), tuple(_size(size, names) for size in value.shape)
        )

    signature = program.signature
    return (
        tuple(map(port, signature.input_names, placeholders)),
        tuple(map(port, signature.output_names, results)),
    )


def renamed(size: str, names: dict[str, str]) -> str:
    """A size with its symbols replaced by their names, as in ``s77//2``."""
    return _SYMBOL.sub(lambda symbol: names.get(symbol.group(), symbol.group()), size)


def _size(size: Any, names: dict[str, str]) -> int | str:
    return size if isinstance(size, int) else renamed(str(size.node.expr), names)


def _size_names(placeholders: list[Node], batches: tuple[int | None, ...]) -> dict[str, str]:
    """A name for each symbol in the inputs' sizes; the batch's wins where a size is also another one."""
    found: dict[str, str] = {}
    for node, batch in zip(placeholders, batches, strict=True):
        if batch is not None:
            for symbol in _SYMBOL.findall(str(node.meta["val"].shape[batch])):
                found.setdefault(symbol, "batch")
    for node, batch in zip(placeholders, batches, strict=True):
        sizes = list(node.meta["val"].shape)
        inside = [axis for axis in range(len(sizes)) if axis != batch]
        for place, axis in enumerate(inside):
            name = PLACES[len(inside)][place] if len(inside) in PLACES else "length"
            for symbol in _SYMBOL.findall(str(sizes[axis])):
                if symbol not in found:
                    found[symbol] = _free(name, set(found.values()))
    return found


def _free(name: str, taken: set[str]) -> str:
    """The name, numbered if it is taken."""
    number, one = 2, name
    while one in taken:
        one, number = f"{name}_{number}", number + 1
    return one
