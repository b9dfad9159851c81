import json
import os
from pathlib import Path

import numpy
import pytest
import torch

from zeropoint.targets import machine
from zeropoint.targets.machine import cores, describe
from zeropoint.targets.processor import parse_cpuinfo

X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu avx avx2 avx512f avx512_vnni amx_int8 avx512fp16

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp i8mm\n"


def test_parses_x86_arm_and_nothing():
    assert parse_cpuinfo(X86) == (
        "Intel(R) Xeon(R) Platinum 8480+",
        ["avx2", "avx512f", "avx512_vnni", "amx_int8"],
    )
    assert parse_cpuinfo(ARM) == ("", ["asimddp", "i8mm"])
    assert parse_cpuinfo("") == ("", [])


def test_describes_this_machine_in_json():
    machine = describe()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["processor"]
    assert machine["cores"] == cores()
    assert 1 <= cores() <= os.cpu_count()
    assert machine["versions"]["torch"] == torch.__version__
    assert machine["versions"]["numpy"] == numpy.__version__


def test_cores_where_the_system_does_not_tell_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", {0: {0, 3, 5}}.__getitem__)  # of this process
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    for told, expected in ((7, 7), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda told=told: told)
        assert cores() == expected


@pytest.mark.parametrize(
    ("cpuinfo", "processor", "expected"),
    [(X86, "amd64", "Intel(R) Xeon(R) Platinum 8480+"), (ARM, "neoverse", "neoverse"), (None, "", "x86_64")],
)
def test_the_processor_by_what_the_system_tells(
    cpuinfo: str | None, processor: str, expected: str, monkeypatch: pytest.MonkeyPatch
):
    read = Path.read_text

    def read_text(path: Path, *arguments: object, **keywords: object) -> str:
        if str(path) != "/proc/cpuinfo":
            return read(path, *arguments, **keywords)
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(machine.Path, "read_text", read_text)
    monkeypatch.setattr(machine.platform, "processor", lambda: processor)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    about = describe()
    assert about["processor"] == expected
    assert about["instruction_sets"] == parse_cpuinfo(cpuinfo or "")[1]


def test_memory_is_pages_times_their_size_or_unknown(monkeypatch: pytest.MonkeyPatch):
    sizes = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert describe()["memory_bytes"] == 4_096_000

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert describe()["memory_bytes"] is None
    monkeypatch.delattr(os, "sysconf")
    assert describe()["memory_bytes"] is None
