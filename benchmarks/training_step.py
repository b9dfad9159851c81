"""The cost of a step of quantization-aware training: rows per second of the training loop.

    python benchmarks/training_step.py                             ResNet-50, batches of 128, on a GPU
    python benchmarks/training_step.py --network resnet18 --batch 16 --size 128

Measures the folded network in float and with its quantizers, each eager and compiled, and with a teacher.
Batches of noise are in device memory, so that nothing waits for data. Writes training_step.json and
training_step.md.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import report
import torch
import typer
from torch import Tensor

import zeropoint as zp
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.methods.qat import fine_tuned
from zeropoint.passes.blocks import without_quantizers
from zeropoint.targets import machine
from zeropoint.training.folder import Folder
from zeropoint.training.loop import NOTED, train
from zeropoint.training.record import read
from zeropoint.training.task import Task

WARM, TIMED = 2, 3  # records, each of NOTED steps
ROWS = {
    "float": {"quantized": False, "compile": False},
    "float, compiled": {"quantized": False, "compile": True},
    "QAT": {"quantized": True, "compile": False},
    "QAT, compiled": {"quantized": True, "compile": True},
    "QAT, compiled, with a teacher": {"quantized": True, "compile": True, "taught": True},
}


def rate(start: Program, program: Program, batches: Any, quantized: bool, compile: bool, taught: bool) -> Any:
    """Rows per second in the last records of a short training, and the peak memory of the GPU in bytes."""
    training = zp.TrainingOptions(epochs=1, compile=compile)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as place:
        if quantized:
            options = zp.Options(training=training, distillation=0.5)
            fine_tuned(start, program if taught else None, options, batches, None, folder=Folder(Path(place)))
        else:
            plain = without_quantizers(start)
            fx.own_parameters(plain)
            train(Task(plain), batches, None, training, folder=Path(place))
        lines = read(Path(place) / "metrics.jsonl")
    rates = [line["rows_per_second"] for line in lines if "rows_per_second" in line][WARM:]
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"rows_per_second": statistics.median(rates), "all": rates, "memory_bytes": memory}


def markdown(record: report.Record) -> str:
    """A line for each row, with its time over that of float training, eager or compiled."""
    rows = record["rows"]
    lines = []
    for name, row in rows.items():
        kind = "float, compiled" if "compiled" in name else "float"
        memory = f"{row['memory_bytes'] / 1e9:.1f}" if row["memory_bytes"] else "–"
        ratio = rows[kind]["rows_per_second"] / row["rows_per_second"] if kind in rows else float("nan")
        lines.append([name, f"{row['rows_per_second']:.0f}", f"{ratio:.2f}", memory])
    head = ["Training", "Rows per second", "Time of a step over float's", "GPU memory, GB"]
    title = f"{record['network']} at {record['size']} px, {record['bits']}, batches of {record['batch']},"
    return f"{title} {record['precision']}, {record['device']}, torch {record['torch']}.\n\n" + report.table(
        head, lines
    )


def main(
    network: Annotated[str, typer.Option(help="of torchvision")] = "resnet50",
    bits: Annotated[str, typer.Option()] = "W4A8",
    batch: Annotated[int, typer.Option()] = 128,
    size: Annotated[int, typer.Option(help="pixels")] = 224,
    only: Annotated[list[str] | None, typer.Option(help="only these rows")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Quantize, train for a few steps each way, print the table."""
    from zeropoint import models

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)

    def images(rows: int) -> Tensor:
        return torch.randn(rows, 3, size, size, generator=generator)

    program = zp.capture(models.resolve(f"torchvision/{network}", "none"), images(2))
    options = zp.Options(rounding="nearest").at(bits)
    start = zp.quantize(program, "static", calibration=[images(8)], options=options)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    held = (
        images(batch).to(device, memory_format=layout),
        torch.randint(0, 1000, (batch,), generator=generator),
    )
    batches = [held] * (NOTED * (WARM + TIMED))
    record = {
        "network": network,
        "bits": bits,
        "batch": batch,
        "size": size,
        "precision": "bf16" if device.type == "cuda" else "float32",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else machine.describe()["processor"],
        "torch": torch.__version__,
        "rows": {},
    }
    for name, settings in ROWS.items():
        if not only or name in only:
            record["rows"][name] = rate(start, program, batches, **{"taught": False, **settings})
            print(name, record["rows"][name], flush=True)
    report.write(out, "training_step", record, markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    typer.run(main)
