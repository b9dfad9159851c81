"""The openvino package, imported without its telemetry, and its Core."""

import functools
import importlib
import sys
from types import ModuleType
from typing import Any


def openvino() -> ModuleType:
    """The package without its telemetry, which reports imports and conversions over the network.

    Telemetry also forks this process; the fork aborts if other threads are running.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    return importlib.import_module("openvino")


@functools.cache
def core() -> Any:
    """The ``openvino.Core`` of this process, which is kept to its end.

    Each Core gives the main thread a stack of its own for signals, and frees it when it is deleted. If
    several are not deleted in the reverse order, the thread is left with a freed one, and Ctrl-C is a
    segmentation fault (OpenVINO 2026.4.1).
    """
    return openvino().Core()
