"""Quantization-aware training: its gain, its cost, and the agreement of the engines with its result.

    python benchmarks/qat.py FOLDER        networks in FOLDER (see trained.py) and for digits; over an hour
    python benchmarks/qat.py --minute      only one network for digits, for one epoch

Writes qat.json, qat.md and qat.svg (the learning curves). An interrupted run continues if the command is
repeated.
"""

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import fresh
import report
import torch
import trained
import typer
from torch import Tensor

import zeropoint as zp
from zeropoint import data, models
from zeropoint.graph import edits as fx
from zeropoint.measure.latency import interleave, paired_ratio
from zeropoint.passes.blocks import without_quantizers
from zeropoint.passes.learnable import learnable
from zeropoint.targets import machine
from zeropoint.training.record import read

ENGINES = ("torch", "onnxruntime", "openvino")
BATCH = 100


@dataclass(frozen=True)
class Case:
    """A training, and its goal: top-1 in percent or, if negative, the difference to float."""

    network: str
    bits: str
    epochs: int
    goal: float


CASES = (
    Case("resnet20", "W8A8", 10, 89.0),
    Case("resnet20", "W4A4", 10, 88.3),
    Case("resnet20", "W2A8", 10, 87.0),
    Case("resnet20", "W2A4", 10, 86.0),
    Case("mobilenetv2", "W8A8", 2, 0.0),
    Case("mobilenetv2", "W4A8", 2, 71.0),
    Case("digits/resnet", "W4A4", 20, -0.5),
    Case("digits/resnet", "W2A4", 20, -1.5),
    Case("digits/mobilenet", "W4A4", 20, -0.5),
    Case("digits/mobilenet", "W2A4", 20, -1.5),
)
MINUTE = (Case("digits/resnet", "W4A4", 1, -0.5),)


def measure(case: Case, folder: str) -> dict[str, Any]:
    """Top-1 of float, static and qat, the curve, and the engines' agreement; runs in its own process."""
    network, parts = _open(case.network, folder)
    program = zp.capture(network, parts["calibration"][0][:2])
    training = zp.TrainingOptions(epochs=case.epochs)
    options = zp.Options(training=training).at(case.bits)
    test = parts["test"]
    result: dict[str, Any] = {"float": _top1(program, test)}
    started = time.perf_counter()
    static = zp.quantize(program, "static", calibration=parts["calibration"], options=options)
    result |= {"static": _top1(static, test), "static_seconds": time.perf_counter() - started}
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        trained_one = zp.train_quantized(
            program,
            parts["train"],
            calibration=parts["calibration"],
            validation=parts["validation"],
            options=options,
            folder=place,
        )
        result |= {"qat": _top1(trained_one, test), "qat_seconds": time.perf_counter() - started}
        result["curve"] = read(Path(place) / "metrics.jsonl")
    result["agreement"] = {}
    for engine in ENGINES:
        runner = zp.compile(trained_one, engine, batch_size=len(test[0][0]))
        result["agreement"][engine] = _agreement(runner, trained_one, test)
    return result


def overhead(folder: str) -> dict[str, Any]:
    """The time of a step of QAT over the time of a step of the same folded network in float32."""
    network, parts = _open("resnet20", folder)
    images, labels = next(iter(parts["train"]))
    program = zp.capture(network, images[:2])
    quantized = zp.quantize(program, "static", calibration=[images], options=zp.Options().at("W4A4"))
    student, _ = learnable(quantized, offsets=True)
    plain = without_quantizers(quantized)
    fx.own_parameters(plain)

    def step(module: torch.nn.Module) -> None:
        module.zero_grad()
        (logits,) = torch.utils._pytree.tree_leaves(module(images))
        torch.nn.functional.cross_entropy(logits, labels).backward()

    samples = interleave({"qat": lambda: step(student), "float": lambda: step(plain)}, seconds=20.0)
    return asdict(paired_ratio(samples["qat"], samples["float"]))


def _open(network: str, folder: str) -> tuple[Any, dict[str, Any]]:
    if network.startswith("digits/"):
        digits = data.resolve("digits")
        parts = {"train": digits.train, "validation": digits.validation, "test": list(digits.evaluation)}
        return models.resolve(network), parts | {"calibration": list(digits.calibration)}
    source = trained.read(folder)
    return getattr(source, network)().eval(), {
        "calibration": trained.calibration(source, network),
        "train": trained.training(source, network, BATCH),
        "validation": None,
        "test": trained.scored(source, network),
    }


def _top1(run: Any, test: list[tuple[Tensor, Tensor]]) -> float:
    right = sum(int((run(images).argmax(1) == labels).sum()) for images, labels in test)
    return 100 * right / sum(len(labels) for _, labels in test)


def _agreement(run: Any, other: Any, test: list[tuple[Tensor, Tensor]]) -> float:
    same = sum(int((run(images).argmax(1) == other(images).argmax(1)).sum()) for images, _ in test)
    return 100 * same / sum(len(images) for images, _ in test)


def markdown(record: report.Record) -> str:
    """The table of accuracies, and a sentence on the cost of a step."""
    lines = []
    for row in record["rows"]:
        name, bits, goal = row["network"], row["bits"], row["goal"]
        if "error" in row:
            lines.append([name, bits, row["error"], *[""] * 6])
            continue
        wanted = row["float"] + goal if goal <= 0 else goal
        agreements = [f"{row['agreement'][engine]:.2f}" for engine in ENGINES]
        numbers = [f"{row[part]:.2f}" for part in ("float", "static", "qat")]
        lines.append(
            [
                name,
                bits,
                str(row["epochs"]),
                *numbers,
                f"{wanted:.2f}",
                f"{row['qat_seconds']:.0f}",
                *agreements,
            ]
        )
    head = ["Network", "Bits", "Epochs", "Float, %", "`static`, %", "`qat`, %", "Goal, %", "Seconds"]
    head += [f"{engine}, %" for engine in ENGINES]
    parts = [
        "Top-1 on the test images, and how often an engine predicts the same class as the trained graph.\n",
        report.table(head, lines),
    ]
    if record.get("overhead"):
        median, low, high = (record["overhead"][part] for part in ("median", "low", "high"))
        parts.append(
            f"A step of QAT takes {median:.2f} ({low:.2f} to {high:.2f}) times a step of the same folded"
            f" ResNet-20 in float32, at batch {BATCH}.\n"
        )
    return "\n".join([*parts, report.where(record["machine"])])


def chart(record: report.Record, path: Path) -> None:
    """Learning curves: the accuracy on the augmented training images of every epoch, as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "zeropoint"  # so that the same numbers give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for row in record["rows"]:
        if row["network"] != "resnet20" or "error" in row:
            continue
        steps = [line for line in row["curve"] if "epoch_accuracy" in line]
        label = f"{row['bits']}: {row['qat']:.2f}% on test images"
        accuracies = [100 * line["epoch_accuracy"] for line in steps]
        axes.plot([line["epoch"] for line in steps], accuracies, marker="o", label=label)
    axes.set(
        xlabel="epoch", ylabel="top-1 on training images, %", title="ResNet-20, quantization-aware training"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main(
    folder: Annotated[Path | None, typer.Argument(help="with models.py and its data")] = None,
    minute: Annotated[bool, typer.Option("--minute", help="one network for digits, for one epoch")] = False,
    network: Annotated[str | None, typer.Option(help="only this one")] = None,
    bits: Annotated[str | None, typer.Option(help="only these")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Train, test, print the table."""
    cases = MINUTE if minute else CASES
    if folder is None:
        cases = tuple(case for case in cases if case.network.startswith("digits/"))
    cases = tuple(case for case in cases if network in (None, case.network) and bits in (None, case.bits))
    about = {"machine": machine.describe() | {"peers": {}}, "batch": BATCH}
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "qat.unfinished.json"
    record = json.loads(unfinished.read_text()) if unfinished.exists() else {}
    if {key: record.get(key) for key in about} != about:
        record = {**about, "rows": []}
    where = "" if folder is None else str(folder.resolve())
    if where and "overhead" not in record:
        record["overhead"] = fresh.run(overhead, where)
    for case in cases:
        if any(asdict(case).items() <= row.items() for row in record["rows"]):
            continue
        try:
            result = fresh.run(measure, case, where)
        except fresh.FailedError as error:
            result = {"error": str(error)}
        record["rows"].append(asdict(case) | result)
        unfinished.write_text(json.dumps(record))
        shown = {key: value for key, value in record["rows"][-1].items() if key != "curve"}
        print(json.dumps(shown), flush=True)
    report.write(out, "qat", record, markdown(record))
    if any(case.network == "resnet20" for case in cases):
        chart(record, (report.DOCS if out == report.RESULTS else out) / "qat.svg")
    unfinished.unlink(missing_ok=True)
    print(markdown(record))


if __name__ == "__main__":
    typer.run(main)
