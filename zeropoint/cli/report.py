"""``zeropoint report``."""

from pathlib import Path
from typing import Annotated

import typer

from zeropoint.cli import output


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of runs that compare wrote; several are shown side by side."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; default: RUN/report.html, or report.html for several runs."),
    ] = None,
) -> None:
    """Draw the report of one or more comparisons as an HTML file.

    compare draws it, too. The file needs no network and no other file.
    """
    draw(runs, out or (runs[0] if len(runs) == 1 else Path()) / "report.html")


def draw(runs: list[Path], out: Path) -> None:
    """Writes the report of run folders, and prints where."""
    from zeropoint.report.html import write

    write(runs, out)
    output.say(f"Report: {out}", style="dim")
