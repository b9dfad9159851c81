"""Results of a comparison: one row per method and engine."""

import dataclasses
import math
from dataclasses import dataclass, fields
from typing import Any

from zeropoint.measure.changed import ChangedClass, ChangedSample
from zeropoint.measure.latency import Latency
from zeropoint.tasks.bootstrap import Change
from zeropoint.tasks.metric import Measure

EAGER = "torch"
"""The engine whose float32 rows are eager PyTorch: the reference for speed and accuracy."""
TOP1 = Measure("top-1", "%")
AGREEMENT = Measure("agreement", "%")
MIXED = "mixed"
FILE = "results.json"
"""In the run folder of a comparison."""


@dataclass(frozen=True)
class Parity:
    """Closeness of an engine's outputs to the simulation of the same Program.

    Both SQNRs are against float32, None if infinite. ``close``: whether the engine's is no lower than the
    simulation's; ``ok``: whether its classes agree, too. ``operator`` names where the two first differ, and
    ``cause`` says why in words, if that is known.
    """

    sqnr_db_engine: float | None
    sqnr_db_simulation: float | None
    agreement: float | None
    ok: bool
    operator: str | None = None
    close: bool = True
    cause: str | None = None

    def __post_init__(self) -> None:
        _drop_nonfinite(self)


@dataclass(frozen=True)
class Row:
    """One method on one engine. None is "not measured"; NaN and infinity become None, as JSON has neither.

    ``outputs_db``: the SQNR of each output by name if there are several, of which ``sqnr_db`` is the least.
    ``values``: the metrics by name, those in percent as fractions of 1; ``change``: that of the first one
    from eager float32. ``top1``: that of a classifier, ``agreement``: fidelity to eager float32 in the task's
    terms, fractions of 1. ``sqnr_db``: None also if the outputs equal float32's.
    ``speedup_eager``, ``speedup_engine``: over float32 in eager PyTorch and on the same engine. ``shrink``:
    float32's size over this one's. ``int8_share``: of the multiply-accumulates, those that the engine does in
    int8, a fraction of 1; ``fallbacks``: the operators that are quantized and that it does in float all the
    same. ``changed_samples``: those whose outputs moved most from float32's, ``changed_classes``: those with
    other answers, the worst first. ``mixture``: what tells a row whose layers have several formats from
    others; "" if they have one. ``artefact``: path in the run folder. ``error``: one line where the row
    failed; an SQNR or loss that shows NaN or infinity in the outputs sets it.
    """

    method: str
    engine: str
    weight_bits: int
    activation_bits: int | None
    top1: float | None = None
    loss: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    latency_ms: Latency | None = None
    speedup_eager: float | None = None
    speedup_engine: float | None = None
    size_bytes: int | None = None
    shrink: float | None = None
    parameter_bytes: int | None = None
    quantize_seconds: float | None = None
    artefact: str | None = None
    parity: Parity | None = None
    error: str | None = None
    int8_share: float | None = None
    fallbacks: tuple[str, ...] = ()
    values: dict[str, float | None] = dataclasses.field(default_factory=dict)
    change: Change | None = None
    outputs_db: dict[str, float | None] = dataclasses.field(default_factory=dict)
    changed_samples: tuple[ChangedSample, ...] = ()
    changed_classes: tuple[ChangedClass, ...] = ()
    mixture: str = ""

    def __post_init__(self) -> None:
        if self.top1 is not None and not self.values:  # results of earlier versions
            object.__setattr__(self, "values", {TOP1.name: self.top1})
        broken_sqnr = self.sqnr_db is not None and (math.isnan(self.sqnr_db) or self.sqnr_db == -math.inf)
        broken_loss = self.loss is not None and not math.isfinite(self.loss)
        if self.error is None and (broken_sqnr or broken_loss):
            why = "an output holds NaN or infinity, or float32's are all zero"
            object.__setattr__(self, "error", f"{why} (SQNR {self.sqnr_db} dB, loss {self.loss})")
        broken = [
            name for name, value in self.values.items() if value is not None and not math.isfinite(value)
        ]
        if broken and self.error is None:
            object.__setattr__(self, "error", f"the metric {broken[0]} is {self.values[broken[0]]}")
        decibels = {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in self.outputs_db.items()
        }
        object.__setattr__(self, "outputs_db", decibels)
        finite = {name: None if name in broken else value for name, value in self.values.items()}
        object.__setattr__(self, "values", finite)
        _drop_nonfinite(self)

    @property
    def name(self) -> str:
        """How messages name the row: "static on openvino", or "static W4A8 on openvino"."""
        if self.mixture:
            return f"{self.method} {self.bits} {self.mixture} on {self.engine}"
        bits = f" {self.bits}" if self.quantized and self.bits != "W8A8" else ""
        return f"{self.method}{bits} on {self.engine}"

    @property
    def float32_values(self) -> dict[str, float | None]:
        """The first metric of eager float32 on the same data; empty if there is none, or it is not known."""
        name, value = next(iter(self.values.items()), ("", None))
        return {} if self.change is None or value is None else {name: value - self.change.value}

    @property
    def bits(self) -> str:
        """Those of weights and activations, as in W8A8, or mixed."""
        return MIXED if self.mixture else f"W{self.weight_bits}A{self.activation_bits}"

    @property
    def is_wrong(self) -> bool:
        """Whether the engine computes something worse than the simulation: the row is not to be shipped."""
        return self.parity is not None and not self.parity.close

    @property
    def quantized(self) -> bool:
        """Whether the weights are integers (float32 has 32 bits, bfloat16 has 16)."""
        return self.weight_bits < 16


@dataclass(frozen=True)
class Results:
    """What one comparison measured, and how.

    ``created``: ISO 8601. ``threads``, ``batch_size``: of the latency. ``images``: evaluated per row.
    ``machine``: processor, cores, memory in bytes, versions. ``options``: those of quantization, by name.
    ``missing``: engines that are not installed, each with the command that installs it. ``fingerprint``: of
    the float model and the data; a run is continued only if they are the same. ``skipped``: rows that an
    engine or the processor cannot run, each with the reason. ``remarks``: what engines do by their rules for
    this processor, a line each. ``rows``: one for each method, bits and engine. ``task``: what was measured,
    ``measures``: its metrics, of which verdicts speak of the first, and ``fidelity``: what ``agreement`` of a
    row is, None if the task has none. ``max_drop``: how much worse than float32's the first metric may be, as
    in 0.5 or 2%, "" for the default. ``own``: the user's functions and training data, each with a hash.
    ``budget``, ``chosen``: of a search, what was asked for in words, and the name of the row that it chose,
    "" if none keeps the budget.

    >>> data = zp.Loaders("mine", calibration=batches, evaluation=batches)
    >>> results = zp.compare(program, data, out="run", methods=["static"], engines=["openvino"])
    >>> results.images
    16
    >>> results.rows[0].latency_ms.p50 > 0
    True
    """

    created: str
    command: str
    model: str
    data: str
    threads: int
    batch_size: int
    images: int
    machine: dict[str, Any]
    options: dict[str, Any]
    missing: dict[str, str]
    fingerprint: str
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    task: str = "classification"
    measures: tuple[Measure, ...] = ()
    fidelity: Measure | None = AGREEMENT
    max_drop: str = ""
    own: dict[str, str] = dataclasses.field(default_factory=dict)
    budget: str = ""
    chosen: str = ""

    @property
    def metrics(self) -> tuple[Measure, ...]:
        """The metrics measured; of results of earlier versions top-1, if there were labels."""
        earlier = (TOP1,) if any(row.top1 is not None for row in self.rows) else ()
        return self.measures or earlier


def _drop_nonfinite(record: Row | Parity) -> None:
    """Makes what is in memory equal to what is read back from JSON."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            object.__setattr__(record, field.name, None)
