"""Running the command line: exit statuses, errors in one line, warnings, and Ctrl-C."""

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from zeropoint import progress
from zeropoint.cli.output import err
from zeropoint.errors import InputError, InputWarning, first_line


class _StoppedError(Exception):
    """Ctrl-C with a message, which typer would lose."""


@contextmanager
def interruptible(
    then: str = "the same command again continues from there", earlier: Path | None = None
) -> Iterator[None]:
    """After Ctrl-C, the message says what is saved, and what can be done ``then``.

    Without a message nothing is saved by the block. If the file ``earlier`` is there, it is of a run before.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        saved = str(stop)
        if not saved and earlier is not None and earlier.exists():
            saved = f"nothing new is saved, and {earlier} is as it was"
        if not saved:
            raise
        raise _StoppedError(f"{saved}; {then}") from None


def run(app: typer.Typer) -> None:
    """Runs the command line and exits: 0, 1 for a bug, 2 for wrong input, 130 for Ctrl-C, 143 for SIGTERM.

    SIGTERM is treated as Ctrl-C, so that no half-written file stays.
    """
    terminated: list[int] = []

    def terminate(number: int, _: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    debug = "--debug" in sys.argv[1:]
    progress.show_lines()
    progress.be_quiet("--quiet" in sys.argv[1:])
    if not debug:
        _silence_libraries()
    status, saved = _status(app, debug)
    if status == 130:  # which typer also returns for Ctrl-C
        err.print(f"interrupted; {saved}", markup=False, highlight=False, soft_wrap=True)
        status = 143 if terminated else 130
    signal.signal(signal.SIGTERM, before)
    sys.exit(status)


def _status(app: typer.Typer, debug: bool) -> tuple[int, str]:
    """The exit status, and what is saved at Ctrl-C: nothing, unless a command says so."""
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--debug", "--quiet")]
    saved = "nothing was saved"
    try:
        return app(args=arguments or ["--help"], prog_name="zeropoint", standalone_mode=False) or 0, saved
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "zeropoint"
        return _fail(f"{error.format_message().rstrip('.')}; see {command} --help", 2), saved
    except InputError as error:
        return _fail(str(error), 2, debug), saved
    except KeyboardInterrupt:
        return 130, saved
    except _StoppedError as stop:
        return 130, str(stop)
    except Exception as error:
        message = f"{type(error).__name__}: {first_line(error)} (a bug in zeropoint; --debug shows where)"
        return _fail(message, 1, debug), saved


def _silence_libraries() -> None:
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", InputWarning)
    warnings.showwarning = lambda message, *_: err.print(f"warning: {message}", soft_wrap=True)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    logging.disable(logging.WARNING)


def _fail(message: str, status: int, debug: bool = False) -> int:
    """Prints the line that says what is wrong, and with --debug the traceback before it."""
    if debug:
        traceback.print_exc()
    line = " ".join(message.split())
    err.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status
