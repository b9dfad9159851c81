"""The command line: each command has a file, which parses, calls the library and prints.

torch is imported inside the commands, so that help is shown at once.
"""

from typing import Annotated

import typer

import zeropoint
from zeropoint.cli.bench import bench
from zeropoint.cli.compare import compare
from zeropoint.cli.diagnose import diagnose
from zeropoint.cli.evaluate import evaluate
from zeropoint.cli.export import export
from zeropoint.cli.inspect import inspect
from zeropoint.cli.options import Command
from zeropoint.cli.qat import qat
from zeropoint.cli.quantize import quantize
from zeropoint.cli.report import report
from zeropoint.cli.run import run
from zeropoint.cli.ship import ship
from zeropoint.cli.train import train
from zeropoint.cli.tune import tune
from zeropoint.cli.verify import verify

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut off names of options at 80 columns
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"zeropoint {zeropoint.__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the warnings of libraries.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print results only: no progress output on stderr.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Quantize a PyTorch model with every common method, and measure speed and accuracy on every CPU engine.

    --debug and --quiet may also stand after the command.
    """


for command in (
    compare,
    tune,
    quantize,
    qat,
    evaluate,
    bench,
    inspect,
    diagnose,
    report,
    ship,
    verify,
    export,
    train,
):
    app.command(cls=Command)(command)


def main() -> None:
    """Runs the command line of this process."""
    run(app)
