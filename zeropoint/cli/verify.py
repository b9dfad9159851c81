"""``zeropoint verify``."""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that ship wrote.")],
    prepared: Annotated[
        Path | None,
        typer.Option(help=".npz of the inputs that your own code makes of the images in DIR/golden/images."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; default: those of the measurement.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds to measure latency.")] = 2.0,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a shipped folder on this machine, as its verify.py does.

    Nothing of the folder but the artefact is run. The exit status is 0 if the model computes what it did
    where it was made, 1 if not, and 2 if there is nothing to check.
    """
    from zeropoint.shipping.check import verify as check

    options = ["--prepared", str(prepared)] if prepared else []
    options += ["--threads", str(threads)] if threads else []
    options += ["--json"] if json else []
    if status := check(folder, *options, "--seconds", str(seconds)):
        raise typer.Exit(status)
