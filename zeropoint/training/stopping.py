"""Stopping: Ctrl-C and SIGTERM wait until the step is done and saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """The signal that asked to stop, if any. Call ``now`` when everything is saved."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.handlers: dict[int, Any] = {}

    def now(self) -> None:
        """Does what the signal would have done."""
        assert self.asked is not None
        self.restore()
        signal.raise_signal(self.asked)

    def restore(self) -> None:
        """Sets the handlers that were there before."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


@contextmanager
def deferred(has_checkpoint: bool) -> Iterator[Stop]:
    """Inside, a first signal to stop is only noted, if there is a checkpoint to save; a second one stops."""
    stop = Stop()

    def note(number: int, _: object) -> None:
        if stop.asked is not None:
            stop.now()
        stop.asked = number

    if has_checkpoint and threading.current_thread() is threading.main_thread():
        stop.handlers = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        stop.restore()
