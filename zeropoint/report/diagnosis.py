"""What a diagnosis prints: the layers that cost the most, why, and advice with its measured effect."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zeropoint.diagnosis.diagnose import Advice, Diagnosis, LayerDiagnosis
from zeropoint.report.columns import Column, table
from zeropoint.report.figures import NOTHING, figures, known

_NOTES = (
    "alone dB: SQNR at the outputs with this layer alone quantized; regained dB: what they gain with it alone"
    " left float; both to first order",
    "local dB, so far dB: SQNR of the layer's own output, quantized alone and with all before it",
)
_NOTHING_HELPS = (
    "No change to one layer gains 0.1 dB: what is lost is spread over all of them, and takes more bits,"
    " static-best or qat to regain"
)


def terminal(diagnosis: Diagnosis, top: int) -> RenderableType:
    """What a rich console prints: the ``top`` worst layers, and all advice."""
    where = f", timed on {diagnosis.engine}" if diagnosis.engine else ""
    target = f" for {diagnosis.target}" if diagnosis.target else ""
    title = (
        f"{diagnosis.method} {diagnosis.bits}{target}: SQNR {_decibels(diagnosis.sqnr_db)} dB at the outputs,"
        f" on {diagnosis.items} items{where}"
    )
    left = len(diagnosis.layers) - top
    notes = [f"{left} more; --top shows more, --json all"] * (left > 0) + list(_NOTES)
    return Group(
        Text(title, style="bold"),
        _layers(diagnosis, top),
        Text(),
        *(Text(line, style="dim") for line in notes),
        Text(),
        Text("Advice, each measured alone", style="bold"),
        table(_ADVICE, diagnosis.advice, gap=2) if diagnosis.advice else Text(_NOTHING_HELPS),
    )


def taken(advice: list[Advice]) -> str:
    """The advice that was taken, in a line."""
    return "; ".join(f"{one.fix.layer}: {one.fix.what}" for one in advice) or "none of it helped"


def _layers(diagnosis: Diagnosis, top: int) -> Table:
    times = [Column("ms\n(float)", _times, "right", whole=True)] if diagnosis.engine else []
    return table([*_LAYERS, *times, Column("Cause", _causes)], diagnosis.layers[:top])


def _bits(layer: LayerDiagnosis) -> str:
    parts = [("W", layer.weight_bits), ("A", layer.activation_bits)]
    return "".join(f"{letter}{bits}" for letter, bits in parts if bits is not None)


def _causes(layer: LayerDiagnosis) -> str:
    return "; ".join(f"{cause.name}: {cause.detail}" for cause in layer.causes) or NOTHING


def _decibels(value: float | None) -> str:
    return known(value, lambda sqnr_db: f"{sqnr_db:.1f}")


def _times(layer: LayerDiagnosis) -> str:
    floats = known(layer.float_milliseconds, figures)
    return known(layer.milliseconds, lambda time: f"{figures(time)} ({floats})")


_LAYERS: tuple[Column[LayerDiagnosis], ...] = (
    Column("Layer", lambda layer: layer.name),
    Column("Operator", lambda layer: layer.operator),
    Column("Bits", _bits, "right", whole=True),
    Column("alone\ndB", lambda layer: _decibels(layer.alone_db), "right", whole=True),
    Column("regained\ndB", lambda layer: f"{layer.regained_db:+.2f}", "right", whole=True),
    Column("local\ndB", lambda layer: _decibels(layer.local_db), "right", whole=True),
    Column("so far\ndB", lambda layer: _decibels(layer.accumulated_db), "right", whole=True),
)
_ADVICE: tuple[Column[Advice], ...] = (
    Column("Layer", lambda one: one.fix.layer),
    Column("What", lambda one: one.fix.what),
    Column("SQNR, dB", lambda one: f"{one.gain_db:+.2f}", "right"),
    Column("Latency, %", lambda one: known(one.latency, lambda price: f"{100 * price:+.1f}"), "right"),
)
