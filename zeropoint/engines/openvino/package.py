"""The openvino package, imported without its telemetry."""

import importlib
import sys
from types import ModuleType


def openvino() -> ModuleType:
    """The package without its telemetry, which reports imports and conversions over the network.

    Telemetry also forks this process; the fork aborts if other threads are running.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    return importlib.import_module("openvino")
