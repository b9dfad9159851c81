import json
import os

import numpy
import torch

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
