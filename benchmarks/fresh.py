"""Runs a function in a fresh Python process, with its own crashes, global settings and peak memory."""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from zeropoint.errors import first_line

LOG = Path(__file__).parent.parent / "runs" / "bench.log"


class FailedError(Exception):
    """The error of a function in its process, in one line."""


def run(function: Callable[..., Any], *arguments: Any, limit: float = 3600.0) -> Any:
    """The result of ``function(*arguments)`` in its own process; its output goes to ``LOG``.

    Raises FailedError if it raises, dies or takes more than ``limit`` seconds.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    LOG.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_answer, args=(sender, folder, function, arguments))
        process.start()
        sender.close()
        try:
            if not receiver.poll(limit):
                raise FailedError(f"took more than {limit / 60:.0f} minutes")
            answer, error = receiver.recv()
        except EOFError:
            process.join()
            number = process.exitcode or 0
            how = signal.Signals(-number).name if number < 0 else f"exit code {number}"
            raise FailedError(f"its process died: {how}") from None
        finally:
            process.join(20)  # some tools start helpers that keep a process alive
            process.kill()
            process.join()
    if error:
        raise FailedError(error)
    return answer


def peak_bytes() -> int:
    """The peak memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _answer(
    sender: Connection, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    with LOG.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    warnings.simplefilter("ignore")
    os.environ["NNCF_NO_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it reports over the network
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # so that no compilation comes from a cache
    try:
        sender.send((function(*arguments), None))
    except Exception as error:
        import traceback

        traceback.print_exc()
        sender.send((None, f"{type(error).__name__}: {first_line(error)}"[:200]))
