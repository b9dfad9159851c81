"""What an inspection holds, as plain data: layers with their weights, grids, and what is fused."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Grid:
    """The values ``scale * (integer - zero_point)`` for integers from ``qmin`` to ``qmax``.

    ``scale`` and ``zero_point`` have one value, or one for each channel along ``axis``; with granularity
    ``per-group`` one for each group of inputs, output by output; none if the range is found at run time.
    """

    bits: int
    signed: bool
    symmetric: bool
    granularity: str
    qmin: int
    qmax: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and largest value on the grid; of several channels the widest; None if not known."""
        if not self.scale:
            return None
        channels = list(zip(self.scale, self.zero_point, strict=True))
        return (
            min(scale * (self.qmin - zero_point) for scale, zero_point in channels),
            max(scale * (self.qmax - zero_point) for scale, zero_point in channels),
        )


@dataclass(frozen=True)
class Value:
    """One value of a weight: its ``index``, what it was in float, and the integer that is kept.

    ``nearest`` is ``round(source / scale) + zero_point`` on the grid; it and ``source`` are None if the
    float weight is not known. ``integer`` is None in a weight that stayed float.
    """

    index: tuple[int, ...]
    source: float | None
    scale: float | None = None
    zero_point: int | None = None
    nearest: int | None = None
    integer: int | None = None
    value: float | None = None


@dataclass(frozen=True)
class Weight:
    """A tensor of a layer. ``grid``: None if it stayed float; ``bytes``: at its bits, with its scales.

    ``nearest``: the fraction of integers that are the float weight's, rounded to nearest, and ``furthest``:
    how many steps the others are off at most; None if the float weight is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Grid | None
    bytes: int
    values: tuple[Value, ...] = ()
    nearest: float | None = None
    furthest: int | None = None


@dataclass(frozen=True)
class BiasValue:
    """One value of a bias: in float before, the unit of the int32 sums it is added to, and how many units.

    ``unit`` is the input's scale times the weight's, ``nearest`` is ``round(source / unit)``; ``units`` is
    None if there is no unit, or if the bias is not a whole number of them.
    """

    channel: int
    source: float | None
    unit: float | None
    nearest: int | None
    units: int | None
    value: float


@dataclass(frozen=True)
class Bias:
    """A layer's bias; ``whole``: whether all of it is whole units, None if it has no units."""

    name: str
    size: int
    bytes: int
    whole: bool | None
    values: tuple[BiasValue, ...] = ()


@dataclass(frozen=True)
class Input:
    """A computed value that a layer reads: the module it is from, and the grid it is rounded to, or None."""

    source: str
    grid: Grid | None


@dataclass(frozen=True)
class Fused:
    """What is done inside a layer: ``module`` (empty if unknown), ``operator``, and how."""

    module: str
    operator: str
    how: str


@dataclass(frozen=True)
class Layer:
    """One operator that computes.

    ``output``: the shape of its (first) output for one item. ``state``: ``integer`` if weights and inputs
    are, ``weights`` if only these are, else ``float``; ``why``: the reason for what stayed float.
    ``outputs``: the grids that its output is rounded to. ``bytes``: of its tensors. ``macs``:
    multiply-accumulates for one item.
    """

    name: str
    operator: str
    family: str | None
    output: tuple[int, ...]
    dtype: str
    macs: int
    state: str
    why: str
    weights: tuple[Weight, ...]
    bias: Bias | None
    inputs: tuple[Input, ...]
    outputs: tuple[Grid, ...]
    fused: tuple[Fused, ...]
    bytes: int

    @property
    def weight(self) -> Weight | None:
        """The first of its tensors."""
        return self.weights[0] if self.weights else None

    @property
    def float_bytes(self) -> int:
        """What its tensors would take in float32."""
        tensors = (math.prod(w.shape) * 4 if w.grid else w.bytes for w in self.weights)
        return sum(tensors) + (self.bias.bytes if self.bias else 0)

    @property
    def weight_bits(self) -> int | None:
        """Bits of the weight, those of its type if it stayed float; None without weights."""
        weight = self.weight
        return None if weight is None else weight.grid.bits if weight.grid else _type_bits(weight.dtype)

    @property
    def input_bits(self) -> tuple[int, ...]:
        """Bits of each input, those of the output's type if it stayed float."""
        return tuple(part.grid.bits if part.grid else _type_bits(self.dtype) for part in self.inputs)


@dataclass(frozen=True)
class Inspection:
    """What is in a Program. ``parameters``: numbers in its tensors; ``bytes``: their size, scales included.

    ``macs``: multiply-accumulates for one item. ``float_weights``: where the float weights shown with the
    integers are from; empty if there are none. ``layers``: in the order of the network.

    >>> inspection = zp.inspect(quantized)
    >>> inspection.method, inspection.weight_bits, inspection.activation_bits
    ('static', 8, 8)
    >>> 0 < inspection.integer_macs <= inspection.macs
    True
    """

    origin: str
    method: str
    target: str
    processor: str
    weight_bits: int
    activation_bits: int
    skip: tuple[str, ...]
    parameters: int
    bytes: int
    macs: int
    float_weights: str
    layers: tuple[Layer, ...]

    @property
    def integer_macs(self) -> int:
        """The multiply-accumulates of integer inputs with integer weights, or of two integer inputs."""
        return sum(layer.macs for layer in self.layers if layer.state == "integer")


@dataclass(frozen=True)
class Pair:
    """The same layer before and after; one of the two is None if it is only in the other Program.

    ``changes`` names what differs, such as state, shape, bits and scales of weight and input, or bytes.
    ``folded``: the layers before that are inside it now.
    """

    name: str
    before: Layer | None
    after: Layer | None
    folded: tuple[Layer, ...]
    changes: tuple[str, ...]

    @property
    def bytes_before(self) -> int:
        """Of the layer and of those folded into it."""
        return sum(layer.bytes for layer in (self.before, *self.folded) if layer is not None)


Key = tuple[str, str, int]


def keys(kinds: Iterable[tuple[str, str]]) -> Iterator[Key]:
    """Keys of layers: name, operator, and how many with both came before."""
    seen: Counter[tuple[str, str]] = Counter()
    for kind in kinds:
        yield (*kind, seen[kind])
        seen[kind] += 1


def _type_bits(dtype: str) -> int:
    kind = getattr(torch, dtype, torch.float32)
    return kind.itemsize * 8
