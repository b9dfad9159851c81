"""Errors that the user's input causes: one line that says what is wrong, where, and the fix."""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator

MOST = 40  # names in a message: models have thousands of modules


class InputError(Exception):
    """Something the user gave cannot be used; the message is the one line that the command line prints.

    >>> zp.compile(program, "openvin")
    Traceback (most recent call last):
    zeropoint.errors.InputError: unknown engine 'openvin'; did you mean openvino?
    """


class InputWarning(UserWarning):
    """Something the user gave can be used but says too little; the command line prints the message, too."""


@contextlib.contextmanager
def interruption_tells(what: Callable[[], str]) -> Iterator[None]:
    """Adds to the message of Ctrl-C in the block ``what`` is saved, if anything is."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("; ".join(filter(None, (str(stop), what())))) from None


def closest(name: str, valid: Iterable[str]) -> str:
    """The end of an "unknown name" message: the closest valid names, or all of them if none is close.

    If there are more than MOST it lists the first ones and gives the number of the others.
    """
    names = sorted(valid)
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names[:MOST])}{more}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message with any content; the error's type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(
        (line for line in lines if line and not line.startswith("Exception from ")), type(error).__name__
    )
