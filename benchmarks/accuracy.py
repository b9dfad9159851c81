"""Accuracy and fidelity of static int8 on trained networks, simulated and on every engine.

    python benchmarks/accuracy.py FOLDER

FOLDER holds ``models.py``, with ``resnet20()``, ``mobilenetv2()`` and ``load_images(split, size)``, and its
data. Calibrates on 256 images of the calibration split, scores on the whole test split. Writes
results/accuracy.json and results/accuracy.md.
"""

import importlib.util
import json
import time
import warnings
from pathlib import Path
from types import ModuleType

import typer

import zeropoint as zp
from zeropoint.engines import installed
from zeropoint.measure import machine
from zeropoint.measure.evaluate import evaluate_all

NETWORKS = {"resnet20": 32, "mobilenetv2": 128}
RESULTS = Path(__file__).parent / "results"


def measure(source: ModuleType, name: str, size: int) -> list[dict]:
    images, _ = source.load_images("calibration", size)
    calibration = list(images[:256].split(32))
    test = list(zip(*(part.split(50) for part in source.load_images("test", size)), strict=True))
    program = zp.capture(getattr(source, name)(), images[:1], origin=name)
    rows = []
    for engine in installed():
        started = time.perf_counter()
        quantized = zp.quantize(program, "static", calibration=calibration, target=engine)
        seconds = time.perf_counter() - started
        runs = {"simulation": quantized, engine: zp.compile(quantized, engine, batch_size=50)}
        evaluations = evaluate_all(runs, test, float32=program, simulation=quantized)
        for run, evaluation in evaluations.items():
            row = {
                "network": name,
                "target": engine,
                "run": run,
                "top1": evaluation.accuracy.top1,
                "agreement": evaluation.fidelity.agreement,
                "sqnr_db": evaluation.fidelity.sqnr_db,
                "same_class_as_simulation": evaluation.parity.agreement,
                "quantize_seconds": seconds,
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def markdown(rows: list[dict]) -> str:
    lines = [
        "| Network | Target | Run | Top-1, % | Agreement, % | SQNR, dB | As simulated, % | Quantize, s |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        numbers = [
            100 * row["top1"],
            100 * row["agreement"],
            row["sqnr_db"],
            100 * row["same_class_as_simulation"],
        ]
        cells = [f"{number:.2f}" for number in [*numbers, row["quantize_seconds"]]]
        lines.append(f"| {row['network']} | {row['target']} | {row['run']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    specification = importlib.util.spec_from_file_location("networks", folder / "models.py")
    source = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(source)
    rows = [row for name, size in NETWORKS.items() for row in measure(source, name, size)]
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine.describe(), "rows": rows}
    (RESULTS / "accuracy.json").write_text(json.dumps(record, indent=2) + "\n")
    (RESULTS / "accuracy.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    typer.run(main)
