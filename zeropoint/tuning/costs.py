"""Costs: what each format of each layer costs in noise, time and size, so that they can be added up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.tuning.budget import LATENCY, LOSS, SIZE
from zeropoint.tuning.formats import FLOAT, INT8, find
from zeropoint.tuning.frontier import Cost, Point

Array = NDArray[np.float64]
FLOAT_BYTES = 4
# Seconds to convert one element between float and integers, before anything was measured: what AVX-512 takes
# where values are in the caches (0.03 to 0.07 ns, AMD EPYC with VNNI, November 2026). Where it is more, what
# is proposed tells; too high a price would keep anything from being proposed.
PER_ELEMENT = 0.05e-9
# How firmly the logarithms of factors are held at 0: times are known from the engine's profile.
HELD = {LOSS: 0.1, LATENCY: 0.5, SIZE: 0.1}
LOOSE = 0.002  # the same of conversions, of which little is known
SHARE = 0.02  # of a whole


@dataclass(frozen=True)
class Costs:
    """Of L layers in F formats, arrays (L, F): shares of the signal's power, seconds, and bytes.

    ``base``: seconds and bytes that belong to no layer. ``allowed``: what a layer can be computed in.
    ``neighbours``: pairs of layers of which the second reads what the first makes, with the number of
    elements; a conversion between float and integers takes ``per_element`` seconds for each.
    """

    layers: tuple[str, ...]
    formats: tuple[str, ...]
    noise: Array
    seconds: Array
    bytes: Array
    allowed: NDArray[np.bool_]
    base: Mapping[str, float]
    neighbours: tuple[tuple[int, int, int], ...] = ()
    per_element: float = PER_ELEMENT

    def table(self, objective: str) -> Array:
        """The array of an objective."""
        return {LATENCY: self.seconds, SIZE: self.bytes, LOSS: self.noise}[objective]

    @property
    def integer(self) -> NDArray[np.bool_]:
        """Which formats engines compute in integers, (F,)."""
        return np.array([find(name).is_integer for name in self.formats])

    def indices(self, formats: Mapping[str, str]) -> NDArray[np.intp]:
        """The column of each layer's format, (L,)."""
        common = formats.get("*")
        names = [formats.get(layer, common) for layer in self.layers]
        return np.array([self.formats.index(name or FLOAT) for name in names])

    def named(self, columns: Sequence[int]) -> dict[str, str]:
        """The format of each layer, by name."""
        return {layer: self.formats[one] for layer, one in zip(self.layers, columns, strict=True)}

    def converted(self, columns: NDArray[np.intp]) -> int:
        """The elements that are converted between neighbours."""
        integer = self.integer[columns]
        return sum(elements for one, other, elements in self.neighbours if integer[one] != integer[other])

    def predicted(self, formats: Mapping[str, str], objective: str) -> float:
        """The sum over layers, in the unit of the objective."""
        columns = self.indices(formats)
        total = float(self.base.get(objective, 0.0))
        total += float(self.table(objective)[np.arange(len(columns)), columns].sum())
        if objective == LATENCY:
            total += self.per_element * self.converted(columns)
        return total


def of_tables(
    tables: Mapping[str, Mapping[str, Cost]], uniform: Mapping[str, Point], module: GraphModule
) -> Costs:
    """The Costs that ``tables`` tell, by format and layer, with what the ``uniform`` networks took together.

    Kernels of no layer, and calls, take time in all of them: the least of that is the base, and the rest of a
    format's is spread over its layers. Sizes follow from those of the artefacts.
    """
    formats, layers = tuple(tables), tuple(tables[INT8])
    shape = len(layers), len(formats)
    noise, seconds, bytes = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    allowed = np.zeros(shape, bool)
    weights = np.array([tables[INT8][layer].weights for layer in layers], float)
    floats = uniform[FLOAT].searched(SIZE)
    known = {name: sum(cost.seconds for cost in tables[name].values()) for name in formats}
    base = min(max(uniform[name].searched(LATENCY) - known[name], 0.0) for name in formats)
    for column, name in enumerate(formats):
        spread = uniform[name].searched(LATENCY) - base
        stored = FLOAT_BYTES + (uniform[name].searched(SIZE) - floats) / max(weights.sum(), 1)
        for row, layer in enumerate(layers):
            cost = tables[name].get(layer)
            if cost is None:
                continue
            allowed[row, column] = True
            noise[row, column] = cost.noise
            seconds[row, column] = spread * (cost.seconds / known[name] if known[name] else 1 / len(layers))
            bytes[row, column] = weights[row] * stored
    shared = {LATENCY: base, SIZE: floats - FLOAT_BYTES * weights.sum()}
    neighbours = tuple(_neighbours(module, layers))
    return Costs(layers, formats, noise, seconds, bytes, allowed, shared, neighbours)


def refitted(costs: Costs, points: Sequence[Point]) -> Costs:
    """The Costs with factors for each format, and for conversions, with which they tell ``points`` best.

    Factors are held near 1 as far as the points leave them open.
    """
    for objective in (LOSS, LATENCY, SIZE):
        usable = [point for point in points if point.error is None and point.searched(objective) > 0]
        if not usable:
            continue
        rows = np.array([_parts(costs, point.formats, objective) for point in usable])
        wanted = np.array([point.searched(objective) for point in usable])
        count = len(costs.formats)
        held = np.full(rows.shape[1], HELD[objective])
        held[count + 1 :] = LOOSE
        factors = _factors(rows / wanted[:, None], held)
        table = costs.table(objective) * factors[:count]
        if objective == LOSS:
            costs = replace(costs, noise=table)
        elif objective == SIZE:
            base = {**costs.base, SIZE: costs.base[SIZE] * float(factors[count])}
            costs = replace(costs, bytes=table, base=base)
        else:
            base = {**costs.base, LATENCY: costs.base[LATENCY] * float(factors[count])}
            per_element = costs.per_element * float(factors[count + 1])
            costs = replace(costs, seconds=table, base=base, per_element=per_element)
    return costs


def _parts(costs: Costs, formats: Mapping[str, str], objective: str) -> list[float]:
    """What a candidate is foretold to cost, taken apart: by format, then the base, then conversions."""
    columns = costs.indices(formats)
    chosen = costs.table(objective)[np.arange(len(columns)), columns]
    parts = [float(chosen[columns == one].sum()) for one in range(len(costs.formats))]
    if objective != LOSS:
        parts.append(costs.base[objective])
    if objective == LATENCY:
        parts.append(costs.per_element * costs.converted(columns))
    return parts


def _factors(parts: Array, held: Array) -> Array:
    """The factors of the columns with which rows add up to 1.

    Least squares of logarithms, so that too much and too little by the same ratio weigh the same; those of
    the factors count too, times ``held``.
    """
    from scipy.optimize import least_squares

    def errors(logarithms: Array) -> Array:
        told = np.log(np.maximum(parts @ np.exp(logarithms), 1e-12))
        return np.concatenate([told, held * logarithms])

    # A column that is next to nothing has no slope: it begins at a share of the whole.
    means = parts.mean(0)
    start = np.where((means > 0) & (means < SHARE), np.log(SHARE / np.maximum(means, 1e-30)), 0.0)
    found: Array = np.exp(least_squares(errors, start).x)
    return found


def _neighbours(module: GraphModule, layers: Sequence[str]) -> list[tuple[int, int, int]]:
    """Pairs of layers of which the second reads what the first makes, with the number of elements."""
    place = {name: number for number, name in enumerate(layers)}
    makers: dict[Node, set[int]] = {}
    found: dict[tuple[int, int], int] = {}
    for node in module.graph.nodes:
        behind: set[int] = set().union(*(makers.get(one, set()) for one in node.all_input_nodes))
        own = place.get(fx.module_name(node)) if node.op == "call_function" else None
        if own is None:
            makers[node] = behind
            continue
        for operand in node.all_input_nodes:
            for other in makers.get(operand, set()) - {own}:
                found[other, own] = max(found.get((other, own), 0), fx.item_bytes(operand) // FLOAT_BYTES)
        makers[node] = {own}
    return [(*pair, elements) for pair, elements in sorted(found.items())]
