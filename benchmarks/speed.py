"""Speed and size of static int8 on every engine against eager float32, one model at a time, in one process.

    python benchmarks/speed.py                     all models, one thread, batch 1
    python benchmarks/speed.py resnet50 --seconds 20

Random weights: they do not change latency or size. All candidates of a model are timed interleaved, and every
speed-up is the median of paired ratios. Writes results/speed.json and results/speed.md.
"""

import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer

import zeropoint as zp
from zeropoint import data, models
from zeropoint.engines import installed
from zeropoint.measure import machine
from zeropoint.measure.latency import interleave, paired_ratio, summarize
from zeropoint.measure.size import on_disk, parameter_bytes

MODELS = ("resnet18", "resnet50", "mobilenet_v3_large", "shufflenet_v2_x0_5", "efficientnet_v2_s")
RESULTS = Path(__file__).parent / "results"


def measure(name: str, images: int, threads: int, seconds: float) -> dict:
    loaders = data.resolve("random", batch_size=16, limit_batches=images // 16)
    network = models.resolve(f"torchvision/{name}", "none")
    inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        program = zp.capture(network, inputs, origin=f"torchvision/{name}")
        captured = time.perf_counter() - started
        quantized = zp.quantize(program, "static", calibration=loaders.calibration)
        quantized.save(f"{folder}/static.pt2")
        total = time.perf_counter() - started
        program.save(f"{folder}/float.pt2")
        runs = {"eager": eager(network, inputs)}
        for engine in installed():
            of_engine = zp.quantize(program, "static", calibration=loaders.calibration, target=engine)
            runner = zp.compile(of_engine, engine, threads=threads, path=f"{folder}/static")
            runs[engine] = lambda runner=runner: runner(inputs)
        torch.set_num_threads(threads)
        samples = interleave(runs, seconds=seconds, min_rounds=30)
        sizes = [on_disk(f"{folder}/{kind}.pt2") for kind in ("float", "static")]
    speedups = {
        engine: paired_ratio(samples["eager"], samples[engine]) for engine in runs if engine != "eager"
    }
    return {
        "model": name,
        "latency_ms": {run: vars(summarize(times)) for run, times in samples.items()},
        "speedup": {engine: vars(ratio) for engine, ratio in speedups.items()},
        "float_bytes": sizes[0],
        "static_bytes": sizes[1],
        "parameter_bytes": parameter_bytes(quantized),
        "shrink": sizes[0] / sizes[1],
        "capture_seconds": captured,
        "quantize_seconds": total,
        "calibration_images": images,
    }


def eager(network: torch.nn.Module, inputs: torch.Tensor):
    def run() -> None:
        with torch.inference_mode():
            network(inputs)

    return run


def markdown(rows: list[dict], threads: int) -> str:
    engines = list(rows[0]["speedup"])
    lines = [
        f"| Model | eager fp32, ms | {' | '.join(f'static {e}, ms (× eager)' for e in engines)} | "
        "float, MB | static, MB | shrink | capture to file, s |",
        "| :-- | --: | " + "--: | " * (len(engines) + 4),
    ]
    for row in rows:
        cells = [row["model"], f"{row['latency_ms']['eager']['p50']:.2f}"]
        for engine in engines:
            cells.append(f"{row['latency_ms'][engine]['p50']:.2f} ({row['speedup'][engine]['median']:.2f}×)")
        cells += [
            f"{row['float_bytes'] / 1e6:.2f}",
            f"{row['static_bytes'] / 1e6:.2f}",
            f"{row['shrink']:.2f}×",
        ]
        lines.append("| " + " | ".join([*cells, f"{row['quantize_seconds']:.1f}"]) + " |")
    about = machine.describe()
    flags = " ".join(about["instruction_sets"])
    return "\n".join(lines) + f"\n\nBatch 1, {threads} thread(s), {about['processor']}, {flags}.\n"


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="torchvision models; default: five of them")
    ] = None,
    images: int = 64,
    threads: int = 1,
    seconds: float = 10.0,
) -> None:
    warnings.simplefilter("ignore")
    rows = []
    for name in names or MODELS:
        rows.append(measure(name, images, threads, seconds))
        print(json.dumps(rows[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine.describe(), "threads": threads, "rows": rows}
    (RESULTS / "speed.json").write_text(json.dumps(record, indent=2) + "\n")
    (RESULTS / "speed.md").write_text(markdown(rows, threads))
    print(markdown(rows, threads))


if __name__ == "__main__":
    typer.run(main)
