"""Peak memory of calibrating ResNet-50 with every range estimator, on few and on many images.

    python benchmarks/memory.py --images 64 --images 4096

Every run has its own process, and images are made when they are read. Writes memory.json and memory.md.
"""

import time
from pathlib import Path
from typing import Annotated

import fresh
import networks
import report
import typer

import zeropoint as zp
from zeropoint import Options
from zeropoint.numerics.ranges import ESTIMATORS
from zeropoint.targets import machine

MODEL = "resnet50"


def calibrate(estimator: str, images: int, batch_size: int) -> dict[str, float]:
    """The peak memory in bytes before and after calibration, and its seconds; runs in its own process."""
    program = zp.capture(networks.load(MODEL), networks.batch(MODEL, 0, 1))
    data = networks.Calibration(MODEL, images, batch_size)
    before, started = fresh.peak_bytes(), time.perf_counter()
    zp.quantize(program, "static", calibration=data, options=Options(ranges=estimator))
    seconds = time.perf_counter() - started
    return {"peak_bytes": fresh.peak_bytes(), "peak_bytes_before": before, "seconds": seconds}


def markdown(record: report.Record) -> str:
    """One line per estimator: the peaks, and the ratio of the last to the first."""
    counts = record["images"]
    lines = []
    for estimator, runs in record["estimators"].items():
        peaks = [runs[str(count)]["peak_bytes"] for count in counts]
        lines.append([estimator, *(f"{peak / 1e6:.0f}" for peak in peaks), f"{peaks[-1] / peaks[0]:.3f}"])
    head = ["Estimator", *(f"{count} images" for count in counts), f"{counts[-1]} ÷ {counts[0]}"]
    before = next(iter(record["estimators"].values()))[str(counts[0])]["peak_bytes_before"]
    return "\n".join(
        [
            f"Peak memory of the process in MB, ResNet-50 in batches of {record['batch']}; "
            f"{before / 1e6:.0f} MB before calibration starts.\n",
            report.table(head, lines),
            report.where(record["machine"]),
        ]
    )


def main(
    images: Annotated[list[int] | None, typer.Option(help="calibration images; repeat for several")] = None,
    batch: Annotated[int, typer.Option(help="images per batch")] = 16,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Calibrate with every estimator and number of images."""
    counts = sorted(images or [64, 4096])
    estimators: dict[str, dict[str, dict[str, float]]] = {}
    for estimator in ESTIMATORS:
        estimators[estimator] = {}
        for count in counts:
            run = fresh.run(calibrate, estimator, count, batch)
            estimators[estimator][str(count)] = run
            print(
                f"{estimator}, {count} images: {run['peak_bytes'] / 1e6:.0f} MB, {run['seconds']:.0f} s",
                flush=True,
            )
    about = {"machine": machine.describe() | {"peers": report.versions()}, "batch": batch, "images": counts}
    record = {**about, "estimators": estimators}
    report.write(out, "memory", record, markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    typer.run(main)
