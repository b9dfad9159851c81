"""The machine that measurements were taken on: processor, memory, system and library versions."""

import os
import platform
from pathlib import Path
from typing import Any

from zeropoint.targets.processor import parse_cpuinfo
from zeropoint.versions import versions


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """What a reader needs to judge or repeat a measurement; every value is JSON.

    Keys: ``processor``, ``cores`` (those this process may use), ``instruction_sets``, ``memory_bytes`` (None
    where the system does not tell), ``system``, ``python``, ``versions`` (of the installed libraries; none is
    imported).
    """
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        cpuinfo = ""
    processor, instruction_sets = parse_cpuinfo(cpuinfo)
    return {
        "processor": processor or platform.processor() or platform.machine(),
        "cores": cores(),
        "instruction_sets": instruction_sets,
        "memory_bytes": _memory_bytes(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, some systems not these names
        return None
