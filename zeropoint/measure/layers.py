"""What quantization does layer by layer: errors along the network, and distributions beside their grids.

A run folder holds one ``Layers`` for each quantized Program, in ``layers/``; the report draws them.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeropoint.errors import InputError
from zeropoint.files import atomic_write

FOLDER = "layers"  # in the run folder
BINS = 64


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
    """One layer with a weight. ``sqnr_db``: of its output, all quantizers before it at work, None: infinite.

    ``weight`` and ``input`` are None where those stay float. ``macs``: multiply-accumulates for one item.
    """

    name: str
    operator: str
    sqnr_db: float | None
    weight: Distribution | None
    input: Distribution | None
    macs: int


@dataclass(frozen=True)
class Layers:
    """The layers of a quantized Program in the order of the network, seen on so many ``items`` of data."""

    method: str
    bits: str
    target: str
    items: int
    layers: tuple[Layer, ...]

    @property
    def file_name(self) -> str:
        """That of its file in the run folder."""
        return "-".join(part for part in (self.method, self.bits, self.target) if part) + ".json"


def save(layers: Layers, run: Path) -> None:
    """Writes the file into the run folder, whole or not at all."""
    (run / FOLDER).mkdir(exist_ok=True)
    with atomic_write(run / FOLDER / layers.file_name) as path:
        path.write_text(json.dumps(dataclasses.asdict(layers)), encoding="utf-8")


def load(run: Path) -> list[Layers]:
    """Those that a run folder holds; none where the run did not look at layers.

    Raises InputError for a file that is truncated or from another version.
    """
    found = []
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            layers = [_layer(layer) for layer in record["layers"]]
            found.append(Layers(**{**record, "layers": tuple(layers)}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot read {path}: {error}; delete it and compare again") from error
    return found


def _layer(record: dict[str, Any]) -> Layer:
    parts = {name: record[name] and _distribution(record[name]) for name in ("weight", "input")}
    return Layer(**{**record, **parts})


def _distribution(record: dict[str, Any]) -> Distribution:
    lists = ("counts", "scale", "zero_point")
    tuples = {name: tuple(record[name]) for name in lists}
    return Distribution(**{**record, **tuples, "channels": tuple(map(tuple, record["channels"]))})
