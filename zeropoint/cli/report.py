"""``zeropoint report``."""

from pathlib import Path
from typing import Annotated

import typer

from zeropoint.cli import output
from zeropoint.cli.run import interruptible
from zeropoint.errors import InputError, interruption_tells


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs that compare or tune wrote; several are shown side by side.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; default: RUN/report.html, or report.html for several runs."),
    ] = None,
) -> None:
    """Draw the report of one or more comparisons as an HTML file.

    compare and tune draw it, too. The file needs no network and no other file.
    """
    draw(runs, out or (runs[0] if len(runs) == 1 else Path()) / "report.html")


def draw_or_say(folder: Path) -> None:
    """Draws the report of what is done, or says why it cannot be drawn."""
    then = f"zeropoint report {folder} draws the report"
    try:
        with interruptible(then), interruption_tells(lambda: f"what was measured is saved in {folder}"):
            draw([folder], folder / "report.html")
    except InputError as error:
        output.say(f"No report: {error}", style="dim")


def draw(runs: list[Path], out: Path) -> None:
    """Writes the report of run folders, and prints where."""
    from zeropoint.report.html import write

    write(runs, out)
    output.say(f"Report: {out}", style="dim")
