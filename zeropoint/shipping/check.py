"""Verify: a shipped folder, checked by zeropoint's own verify.py."""

import os
import subprocess
import sys

from zeropoint.shipping.folder import SCRIPTS


def verify(shipped: str | os.PathLike[str], *options: str) -> int:
    """Checks a shipped folder with zeropoint's own verify.py, in a process of its own; its exit status.

    It prints what it finds. ``options`` are those of verify.py. Nothing of the folder but the artefact is
    run. 0: the model computes what it did where it was made, 1: not so, 2: there is nothing to check.

    >>> manifest = zp.ship(quantized, "onnxruntime", "shipped")
    >>> zp.verify("shipped", "--seconds", "0.1")
    0
    """
    command = [sys.executable, "-B", "-E", "-s", str(SCRIPTS / "verify.py"), str(shipped), *options]
    return subprocess.run(command, check=False).returncode
