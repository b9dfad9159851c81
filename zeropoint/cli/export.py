"""``zeropoint export``."""

from pathlib import Path
from typing import Annotated

import typer

from zeropoint.cli import output
from zeropoint.files import check_writable


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A FILE.pt2, quantized with --target TO.")],
    to: Annotated[str, typer.Option(help="The runtime: tensorrt or qnn.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
) -> None:
    """Write a quantized model as ONNX for TensorRT or QNN.

    The graph is compared with the simulation on ONNX Runtime's CPU, and its operators with the runtime's
    published list.
    """
    check_writable(out)
    from zeropoint.exports.onnx import export as run_export
    from zeropoint.graph.program import load
    from zeropoint.measure.size import on_disk

    made = run_export(load(model), to, out)
    count = sum(made.operators.values())
    output.say(
        f"{out}, {on_disk(out) / 1e6:.2f} MB, for {to}: {count} operators, all in its list;"
        f" {made.sqnr_db:.0f} dB to the simulation on ONNX Runtime's CPU"
    )
