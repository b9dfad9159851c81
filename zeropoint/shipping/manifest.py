"""The manifest of a shipped folder: what the model takes and gives, what runs it, and what was measured."""

import dataclasses
import datetime
import importlib.metadata
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zeropoint import engines
from zeropoint.engines.engine import PROCESSOR
from zeropoint.errors import InputError
from zeropoint.measure.latency import Latency
from zeropoint.measure.samples import Samples
from zeropoint.models.source import Preprocessing
from zeropoint.targets.processor import PROCESSORS
from zeropoint.versions import versions

FORMAT = 1
"""Goes up when an older predict.py or verify.py would misread a newer manifest."""
GOLDEN = {"inputs": "golden/inputs.npz", "outputs": "golden/outputs.npz"}
# The least SQNR of outputs on another machine to the golden ones, in dB, by the bits of the model. Kernels
# round sums in another order: what was right had 35 dB and more at 8 bits, int8 that overflows 9.
FLOAT_DB, BFLOAT16_DB, INT8_DB, FEW_BITS_DB = 60.0, 20.0, 20.0, 12.0


@dataclass(frozen=True)
class Shipment:
    """A model to ship: its artefact, samples of its data, and what was measured of it.

    ``latency`` is that of batches of ``batch_size`` on ``threads`` threads, None if it is to be measured.
    ``metrics``: by name, those in percent as fractions of 1. ``machine``: where it was measured.
    """

    artefact: Path
    engine: str
    samples: Samples
    model: str
    method: str
    weight_bits: int
    activation_bits: int
    machine: dict[str, Any]
    task: str = ""
    threads: int = 1
    batch_size: int = 1
    latency: Latency | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    sqnr_db: float | None = None


def manifest(
    shipment: Shipment, files: list[str], images: list[str], how: Preprocessing | None
) -> dict[str, Any]:
    """What manifest.json holds before anything is run in the folder; ``files`` are those of the artefact."""
    samples = shipment.samples
    outputs = [dataclasses.asdict(port) for port in samples.outputs]
    if shipment.task == "classification":
        outputs[0]["meaning"] = "a score for each class"
    return {
        "format": FORMAT,
        "made_by": f"zeropoint {importlib.metadata.version('zeropoint')}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": shipment.model,
        "method": shipment.method,
        "weight_bits": shipment.weight_bits,
        "activation_bits": shipment.activation_bits,
        "task": shipment.task,
        "engine": _engine(shipment, files),
        "inputs": [dataclasses.asdict(port) for port in samples.inputs],
        "outputs": outputs,
        "labels": list(samples.classes),
        "preprocessing": None if how is None else as_data(how),
        "prepare": prepare(samples, known=how is not None),
        "processor": {
            "made_for": _made_for(shipment),
            "kinds": [dataclasses.asdict(kind) for kind in PROCESSORS.values()],
            "measured_on": {
                "name": shipment.machine["processor"],
                "instruction_sets": shipment.machine["instruction_sets"],
                "cores": shipment.machine["cores"],
            },
        },
        "measured": {
            "threads": shipment.threads,
            "batch_size": shipment.batch_size,
            "latency_ms": None if shipment.latency is None else dataclasses.asdict(shipment.latency),
            "metrics": shipment.metrics,
            "sqnr_db": shipment.sqnr_db,
        },
        "golden": GOLDEN | {"images": images, "least_db": _least_db(shipment)},
    }


def as_data(how: Preprocessing) -> dict[str, Any]:
    """The steps from an image file to an input, which predict.py takes."""
    return dataclasses.asdict(how) | {"channels": "RGB", "divide_by": 255, "layout": "NCHW"}


def prepare(samples: Samples, *, known: bool) -> str:
    """What a caller has to do before the model, in words."""
    if known:
        return "images are prepared as `preprocessing` says"
    ports = ", ".join(
        f"{port.name} {port.dtype} ({', '.join(map(str, port.shape))})" for port in samples.inputs
    )
    words = f"give its inputs as an .npz file: {ports}"
    return f"{words}; it was measured on {samples.data}" if samples.data else words


def _engine(shipment: Shipment, files: list[str]) -> dict[str, Any]:
    engine = engines.find(shipment.engine)
    package = engine.PACKAGES[0]
    version = re.sub(r"\+.*", "", versions()[package])
    settings = engine.settings(shipment.artefact)
    return {
        "name": shipment.engine,
        "package": package,
        "version": version,
        "minimum": _minimum(package, version),
        "exact": bool(settings.get("compiled")),  # native code, of the very version that compiled it
        "settings": settings,
        "files": files,
    }


def _made_for(shipment: Shipment) -> str:
    """The kind of processor that the artefact is right on: any, if the engine's kernels are exact on all."""
    made_for = engines.named(shipment.engine).metadata(shipment.artefact).get(PROCESSOR, "")
    return "any" if made_for and engines.target(shipment.engine).exact else made_for


def _minimum(package: str, version: str) -> str:
    """The oldest version that runs an artefact.

    An ``.onnx`` file names the operators it needs, which zeropoint's tests run on the oldest version that it
    supports. OpenVINO and PyTorch promise to read files of older versions, and none of newer ones.
    """
    if package != "onnxruntime":
        return version
    needed = importlib.metadata.requires("zeropoint") or []
    bound = next((one for one in needed if one.startswith(package)), "")
    found = re.search(r">=([\d.]+)", bound)
    return found.group(1) if found else version


def _least_db(shipment: Shipment) -> float:
    bits = min(shipment.weight_bits, shipment.activation_bits)
    if bits >= 32:
        return FLOAT_DB
    return BFLOAT16_DB if bits == 16 else INT8_DB if bits >= 8 else FEW_BITS_DB


def check_engine(name: str) -> None:
    """Raises InputError if an engine is not installed: the golden outputs are computed with it."""
    if reason := engines.missing().get(name):
        raise InputError(f"engine '{name}' is not installed, and the folder is tried out; run: {reason}")
