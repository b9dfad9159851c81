"""What quantization does layer by layer: errors along the network, and distributions beside their grids.

A run folder holds one ``Layers`` for each quantized Program, in ``layers/``; the report draws them.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from zeropoint.files import as_type, atomic_write, read_json
from zeropoint.graph import edits as fx
from zeropoint.graph.macs import multiply_accumulates
from zeropoint.graph.operators import short_name
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer
from zeropoint.measure.layerwise import Layerwise, Seen, decibels
from zeropoint.numerics.ranges import Statistics

FOLDER = "layers"  # in the run folder
BINS = 64
CHANNELS = 256  # of a weight that are kept, at most, at even distances


@dataclass(frozen=True)
class Distribution:
    """The values of a tensor and the grid that they are put on.

    ``counts``: how many float values fall into each of BINS equal bins from ``low`` to ``high``. The grid is
    ``scale * (integer - zero_point)`` for integers from ``qmin`` to ``qmax``; ``scale`` and ``zero_point``
    have one value, or one for each of the channels of a weight. ``channels``: the least and largest value of
    each channel of a weight. ``clipped``: the fraction of values beyond the grid.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    bits: int
    qmin: int
    qmax: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    clipped: float
    channels: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Layer:
    """One operator that reads quantized values, ``name`` being the module's that it comes from.

    ``sqnr_db``: of its output with all quantizers before it at work, None: infinite. ``weight`` is None if
    it has none or that stays float, and so is ``input``; of two it is the worse one. ``macs``:
    multiply-accumulates for one item.
    """

    name: str
    operator: str
    sqnr_db: float | None
    weight: Distribution | None
    input: Distribution | None
    macs: int


@dataclass(frozen=True)
class Layers:
    """The layers of a quantized Program in the order of the network, seen on ``items`` items of data."""

    method: str
    bits: str
    target: str
    items: int
    layers: tuple[Layer, ...]

    @property
    def file_name(self) -> str:
        """That of its file in the run folder."""
        return "-".join(part for part in (self.method, self.bits, self.target) if part) + ".json"


def describe(program: Program, looked: Layerwise) -> Layers:
    """What a layerwise pass saw of ``program``, as plain values."""
    macs = multiply_accumulates(program)
    layers = []
    for seen in looked.seen:
        weight = seen.weight
        inputs = [of_activation(seen.operands[one.node], one) for one in _activations(seen)]
        layers.append(
            Layer(
                name=fx.module_name(seen.node),
                operator=short_name(seen.node.target),
                sqnr_db=decibels(seen.signal, seen.accumulated),
                weight=of_weight(looked.float_weights[str(weight.source.target)], weight) if weight else None,
                input=max(inputs, key=lambda one: one.clipped, default=None),
                macs=macs.get(seen.node.name, 0),
            )
        )
    bits = f"W{program.weight_bits}A{program.activation_bits}"
    return Layers(program.method, bits, program.target, looked.items, tuple(layers))


def _activations(seen: Seen) -> list[Quantizer]:
    return [one for one in seen.quantizers if one.node in seen.operands]


def of_activation(statistics: Statistics, quantizer: Quantizer) -> Distribution:
    """The Distribution of an activation by what was seen of it."""
    low, high = statistics.low, statistics.high
    centers, counts = statistics.centers, statistics.histogram
    places = ((centers - low) / max(high - low, 1e-30) * BINS).long().clamp(0, BINS - 1)
    merged = torch.zeros(BINS, dtype=torch.float64).index_add_(0, places, counts)
    beyond = counts[_is_beyond(centers, quantizer.scale, quantizer.zero_point, quantizer)].sum()
    return _distribution_on(quantizer, low, high, merged, float(beyond / counts.sum().clamp(min=1)))


def of_weight(weight: Tensor, quantizer: Quantizer) -> Distribution:
    """The Distribution of a float weight on the grid of its quantizer."""
    values = weight.detach().float()
    by_channel = values.movedim(quantizer.axis, 0).flatten(1) if len(quantizer.scale) > 1 else None
    rows = values.reshape(1, -1) if by_channel is None else by_channel
    scale, zero_point = quantizer.scale.unsqueeze(1), quantizer.zero_point.unsqueeze(1)
    clipped = _is_beyond(rows, scale, zero_point, quantizer).float().mean()
    low, high = (float(end) for end in torch.aminmax(values))
    counts = torch.histc(values, BINS, low, high) if low < high else torch.tensor([float(values.numel())])
    ends = [] if by_channel is None else torch.stack(torch.aminmax(rows, dim=1), 1).tolist()
    found = _distribution_on(quantizer, low, high, counts, float(clipped))
    return dataclasses.replace(found, channels=tuple((a, b) for a, b in _thin(ends)))


def _is_beyond(values: Tensor, scale: Tensor, zero_point: Tensor, quantizer: Quantizer) -> Tensor:
    """Where values are cut: beyond the limit of the grid by more than half a step."""
    levels = values / scale + zero_point
    return (levels < quantizer.scheme.qmin - 0.5) | (levels > quantizer.scheme.qmax + 0.5)


def _distribution_on(
    quantizer: Quantizer, low: float, high: float, counts: Tensor, clipped: float
) -> Distribution:
    scheme = quantizer.scheme
    return Distribution(
        low=low,
        high=high,
        counts=tuple(int(count) for count in counts),
        bits=scheme.bits,
        qmin=scheme.qmin,
        qmax=scheme.qmax,
        scale=tuple(_thin(quantizer.scale.tolist())),
        zero_point=tuple(_thin(quantizer.zero_point.tolist())),
        clipped=clipped,
    )


def _thin(values: list[Any]) -> list[Any]:
    return values[:: -(-len(values) // CHANNELS) or 1]


def save(layers: Layers, run: Path) -> None:
    """Writes the file into the run folder, whole or not at all."""
    (run / FOLDER).mkdir(exist_ok=True)
    with atomic_write(run / FOLDER / layers.file_name) as path:
        path.write_bytes(msgspec.json.encode(layers))


def load(run: Path) -> list[Layers]:
    """Those that a run folder holds; none if the run did not look at layers.

    Raises InputError for a file that is truncated or from another version.
    """
    fix = "delete it and compare again"
    paths = sorted((run / FOLDER).glob("*.json"))
    return [as_type(read_json(path, fix), Layers, path, fix) for path in paths]
