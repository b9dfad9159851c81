"""What a user's own file holds: ``file.py:make_model``."""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zeropoint.errors import InputError, closest

MODULE = "zeropoint_user_"
"""What the names of the modules that are run from the user's files begin with."""


def is_userfile(spec: str) -> bool:
    """Whether ``spec`` names a Python file, with or without a function."""
    return spec.partition(".py:")[1] == ".py:" or spec.endswith(".py")


def call(spec: str, example: str) -> Any:
    """What the function of ``FILE.py:FUNCTION`` returns, called with no arguments; the file is run first.

    Arguments and errors are those of ``load``; it is an error, too, if the function fails.
    """
    function = load(spec, example)
    with _blaming(spec):
        return function()


def load(spec: str, example: str) -> Any:
    """What ``FILE.py:NAME`` names, a function or another callable; the file is run first.

    As when Python runs a file, its folder is put first on ``sys.path``, so it may import the files there.
    ``example`` is the name that the message proposes if ``spec`` has none.

    Raises InputError if the file or the name does not exist, or the user's code fails.
    """
    file, colon, name = spec.rpartition(":")
    if not (colon and file.endswith(".py") and name):
        raise InputError(f"{spec}: name the function too, as in {spec.rstrip(':')}:{example}")
    path = Path(file).resolve()
    if not path.is_file():
        raise InputError(f"{file}: no such file")
    # One module name per file, registered before it runs: dataclasses and torch.export look classes up by it.
    module_spec = importlib.util.spec_from_file_location(f"{MODULE}{path.stem}", path)
    assert module_spec is not None  # a .py file always has a loader
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    with _blaming(spec):
        module_spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise InputError(f"{file} has no function {name}; {closest(name, functions)}")
    return found


def identity(given: object) -> str:
    """What tells the user's function or metric from another: its name, and a hash of the code.

    That is the whole file for what ``load`` found in it, else its own source, where there is any. Of nothing
    it is empty.
    """
    if given is None:
        return ""
    name = getattr(given, "__qualname__", type(given).__qualname__)
    return f"{name} {hashlib.sha256(_code(given)).hexdigest()[:12]}"


def _code(given: Any) -> bytes:
    for key, module in list(sys.modules.items()):
        if key.startswith(MODULE) and any(value is given for value in vars(module).values()):
            return Path(str(module.__file__)).read_bytes()
    try:
        has_source = isinstance(given, type) or hasattr(given, "__code__")
        return inspect.getsource(given if has_source else type(given)).encode()
    except (OSError, TypeError):  # of code without a file
        return b""


@contextlib.contextmanager
def _blaming(spec: str) -> Iterator[None]:
    """Makes an error of the user's code one line that names its place."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{spec} failed at {place.filename}:{place.lineno}: {message}") from error
