"""Stopping: Ctrl-C and SIGTERM wait until a step is done and kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Which signal asked to stop, if any; ``now`` is for when all is kept, and gives the signal its way."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.handlers: dict[int, Any] = {}

    def now(self) -> None:
        """Does what the signal would have done."""
        assert self.asked is not None
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}
        signal.raise_signal(self.asked)


@contextmanager
def deferred(is_kept: bool) -> Iterator[Stop]:
    """Signals to stop are noted, not obeyed, where a checkpoint is worth waiting for."""
    stop = Stop()

    def note(number: int, _: object) -> None:
        if stop.asked is not None:  # asked again: at once
            stop.now()
        stop.asked = number

    if is_kept and threading.current_thread() is threading.main_thread():
        stop.handlers = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in stop.handlers.items():
            signal.signal(number, handler)
