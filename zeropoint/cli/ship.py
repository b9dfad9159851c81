"""``zeropoint ship``."""

from pathlib import Path
from typing import Annotated

import typer

from zeropoint import progress
from zeropoint.cli import output
from zeropoint.files import check_new


def ship(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that compare or tune wrote.")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    row: Annotated[
        str | None,
        typer.Option(
            help="The row: method, bits and engine, as in 'static W8A8 openvino'; default: the verdict's,"
            " or the one that tune chose."
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="For a server: triton, ovms (OpenVINO Model Server) or kserve; default: folder, for none."
        ),
    ] = "folder",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Ship a row even if it computes something else than its Program.")
    ] = False,
) -> None:
    """Write a row, or what tune chose, as a folder that runs anywhere.

    It holds the artefact, golden outputs, and predict.py and verify.py, which need the engine and NumPy
    alone: not zeropoint. Copy it anywhere, and run python verify.py there.
    """
    check_new(out)
    from zeropoint.shipping.ship import ship_run

    made = ship_run(run, out, row=row, anyway=anyway, layout=layout, say=progress.say)
    size = sum(known["bytes"] for known in made["files"].values()) / 1e6
    output.say(f"Shipped: {out}, {len(made['files']) + 1} files, {size:.2f} MB")
    output.say(f"Check it, here or where you copy it: python {out}/verify.py", style="dim")
