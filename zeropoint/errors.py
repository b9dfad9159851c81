"""Errors that the user's input causes: one line that says what is wrong, where, and the fix."""

import contextlib
import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import msgspec

MOST = 40  # names in a message: models have thousands of modules
# Numbers of fields and arguments, with the range that is checked.
Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_KINDS = {int: "an int", float: "a number", bool: "True or False", str: "a text", type(None): "None"}


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


def check_fields(record: Any) -> None:
    """Raises InputError for the first field of a dataclass whose value is not of the annotated type or range.

    A number is no text and no bool, NaN and infinity are no numbers; an int will do for a float.
    """
    for name, kind in _kinds_of_fields(record.__class__).items():
        check_value(name, getattr(record, name), kind)


@functools.cache
def _kinds_of_fields(record: Any) -> dict[str, Any]:
    """The annotated type of each field of a dataclass; found once, since that takes longer than the check."""
    hints = typing.get_type_hints(record, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def check_name(name: str, value: Any, valid: Iterable[str]) -> None:
    """Raises InputError, which calls the value by ``name``, if it is none of the ``valid`` names."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}; give one of the texts {', '.join(valid)}")
    if value not in valid:
        raise InputError(f"unknown {name} '{value}'; {closest(value, valid)}")


def check_value(name: str, value: Any, kind: Any) -> None:
    """Raises InputError, which calls the value by ``name``, if it is not of this type or range."""
    with contextlib.suppress(msgspec.ValidationError):
        given = tuple(value) if isinstance(value, list) else value
        if isinstance(value, float):
            given = float(value)  # one of NumPy's float64, too
        if (not isinstance(value, float) or math.isfinite(value)) and msgspec.convert(given, kind) == given:
            return
    raise InputError(f"{name} is {value!r}; give {_accepted(kind)}")


def _accepted(kind: Any) -> str:
    """What a type takes, in words: an int from 2 to 8, or None."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(map(_accepted, inside))
    if origin is tuple:
        return f"a tuple of {_accepted(inside[0]).partition(' ')[2]}s"
    if origin is not Annotated:
        return _KINDS.get(kind, f"a {kind.__name__}")
    low, high = inside[1].ge, inside[1].le
    if inside[1].gt is not None:
        return f"{_accepted(inside[0])} above {inside[1].gt}"
    if high is None and inside[1].lt is None:
        return f"{_accepted(inside[0])} of {low} or more"
    end = f"to {high}" if high is not None else f"to below {inside[1].lt}"
    return f"{_accepted(inside[0])} from {low} {end}"
