"""What a diagnosis prints: the layers that cost the most, why, and advice with its measured effect."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zeropoint.diagnosis.diagnose import Advice, Diagnosis, LayerDiagnosis
from zeropoint.report.figures import figures

NOTHING = "–"


def terminal(diagnosis: Diagnosis, top: int) -> RenderableType:
    """What a rich console prints: the ``top`` worst layers, and all advice."""
    where = f", timed on {diagnosis.engine}" if diagnosis.engine else ""
    target = f" for {diagnosis.target}" if diagnosis.target else ""
    title = (
        f"{diagnosis.method} {diagnosis.bits}{target}: SQNR {_decibels(diagnosis.sqnr_db)} dB at the outputs,"
        f" on {diagnosis.items} items{where}"
    )
    parts: list[RenderableType] = [Text(title, style="bold"), _layers(diagnosis, top), Text()]
    left = len(diagnosis.layers) - top
    if left > 0:
        parts.append(Text(f"{left} more; --top shows more, --json all", style="dim"))
    parts += [Text(line, style="dim") for line in _NOTES]
    parts += [Text(), Text("Advice, each measured alone", style="bold"), _advice(diagnosis)]
    return Group(*parts)


_NOTES = (
    "alone dB: SQNR at the outputs with this layer alone quantized; regained dB: what they gain with it alone"
    " left float; both to first order",
    "local dB, so far dB: SQNR of the layer's own output, quantized alone and with all before it",
)


_NOTHING_HELPS = (
    "No change to one layer gains 0.1 dB: what is lost is spread over all of them, and takes more bits,"
    " static-best or qat to regain"
)


def _layers(diagnosis: Diagnosis, top: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Layer", overflow="fold")
    table.add_column("Operator")
    for header in ("Bits", "alone\ndB", "regained\ndB", "local\ndB", "so far\ndB"):
        table.add_column(header, justify="right", no_wrap=True)
    if diagnosis.engine:
        table.add_column("ms\n(float)", justify="right", no_wrap=True)
    table.add_column("Cause", overflow="fold", ratio=1)
    for layer in diagnosis.layers[:top]:
        numbers = [_decibels(layer.alone_db), f"{layer.regained_db:+.2f}"]
        numbers += [_decibels(layer.local_db), _decibels(layer.accumulated_db)]
        times = [_times(layer)] if diagnosis.engine else []
        cause = "; ".join(f"{cause.name}: {cause.detail}" for cause in layer.causes)
        table.add_row(
            Text(layer.name), Text(layer.operator), _bits(layer), *numbers, *times, Text(cause or NOTHING)
        )
    return table


def _advice(diagnosis: Diagnosis) -> RenderableType:
    if not diagnosis.advice:
        return Text(_NOTHING_HELPS)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Layer", overflow="fold")
    table.add_column("What")
    table.add_column("SQNR, dB", justify="right")
    table.add_column("Latency, %", justify="right")
    for one in diagnosis.advice:
        table.add_row(Text(one.fix.layer), one.fix.what, f"{one.gain_db:+.2f}", _price(one))
    return table


def taken(advice: list[Advice]) -> str:
    """The advice that was taken, in a line."""
    return "; ".join(f"{one.fix.layer}: {one.fix.what}" for one in advice) or "none of it helped"


def _bits(layer: LayerDiagnosis) -> str:
    parts = [("W", layer.weight_bits), ("A", layer.activation_bits)]
    return "".join(f"{letter}{bits}" for letter, bits in parts if bits is not None)


def _decibels(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def _price(advice: Advice) -> str:
    return NOTHING if advice.latency is None else f"{100 * advice.latency:+.1f}"


def _times(layer: LayerDiagnosis) -> str:
    if layer.milliseconds is None:
        return NOTHING
    floats = NOTHING if layer.float_milliseconds is None else figures(layer.float_milliseconds)
    return f"{figures(layer.milliseconds)} ({floats})"
