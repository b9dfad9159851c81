"""What a shipped folder costs beside zeropoint's own runner: latency, and the time to the first result.

    python benchmarks/ship.py RUN [--python ENGINE=PYTHON ...]

RUN is a run folder of ``zeropoint compare``. Every row that was measured is shipped to a temporary folder.
Both ways of running it are timed in turns in this process, on the same inputs and threads. Then verify.py
runs in a fresh process, of the environment given for its engine: one with the engine and NumPy alone shows
that no more is needed.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import zeropoint as zp
from zeropoint.engines import load_artefact
from zeropoint.measure.latency import interleave, paired_ratio
from zeropoint.report.files import load
from zeropoint.shipping.folder import SCRIPTS

SECONDS = 5.0  # of timing, for each row
STARTS = 5  # fresh processes


def ratio_to_runner(folder: Path, artefact: Path, engine: str, threads: int) -> str:
    """The time of predict.py over that of zeropoint's runner, with its 95% interval."""
    predict, verify = (importlib.import_module(name) for name in ("predict", "verify"))
    model = predict.load(folder, threads)
    inputs = verify.batch(model.checked(predict.of_arrays(str(folder / "golden/inputs.npz"))), model.manifest)
    runner = load_artefact(engine, artefact, threads)
    tensors = [torch.from_numpy(array) for array in inputs]
    same = all(map(np.array_equal, model.flat(inputs), [one.numpy() for one in runner.flat(*tensors)]))
    assert same, f"{artefact} gives other outputs"
    calls = {"predict": lambda: model.flat(inputs), "runner": lambda: runner.flat(*tensors)}
    times = interleave(calls, seconds=SECONDS)
    ratio = paired_ratio(times["predict"], times["runner"])
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def fresh(folder: Path, python: str) -> tuple[float, str]:
    """The median time from import to the first outputs, and what verify.py says of the outputs."""
    seconds, outputs = [], ""
    for _ in range(STARTS):
        command = [python, "-B", "-E", "-s", str(folder / "verify.py"), "--json", "--seconds", "0.2"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise SystemExit(done.stderr)
        found = {one["check"]: one["words"] for one in json.loads(done.stdout)}
        seconds.append(float(found["start"].split()[0]))
        outputs = found["outputs"]
    return statistics.median(seconds), outputs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PYTHON")
    given = parser.parse_args()
    pythons = dict(one.split("=") for one in given.python)
    sys.path.insert(0, str(SCRIPTS))
    results = load(given.run)
    print("row | time ÷ the runner's (95% interval) | start s | outputs in a fresh process")
    for row in results.rows:
        if row.error is not None:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "out"
            zp.ship_run(
                given.run, folder, row=f"{row.method} {row.bits if row.quantized else ''} {row.engine}"
            )
            ratio = ratio_to_runner(folder, given.run / str(row.artefact), row.engine, results.threads)
            seconds, outputs = fresh(folder, pythons.get(row.engine, sys.executable))
            print(f"{row.name} | {ratio} | {seconds:.2f} | {outputs}", flush=True)


if __name__ == "__main__":
    main()
