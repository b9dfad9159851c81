"""Accuracy and fidelity on trained networks: zeropoint's methods and bits compared with other tools.

    python benchmarks/accuracy.py FOLDER
    python benchmarks/accuracy.py FOLDER --network resnet20 --tool zeropoint --bits W8A8

FOLDER holds the networks and their data (see trained.py). Every row runs in its own process: it calibrates on
the calibration split, 256 images or 128 reactions, without labels, and is tested on the test split. Of a
language model, top-1 is the share of masked tokens that are found, and padding does not count; zeropoint
takes it unedited, by the names of its inputs. zeropoint is simulated, and at W8A8 also run on its target.
AIMET is measured if it is installed (``pip install aimet-torch==2.42.0``). Writes accuracy.json and
accuracy.md. An interrupted run continues if the command is repeated.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import fresh
import peers
import report
import torch
import trained
import typer
from torch import Tensor, nn

import zeropoint as zp
from zeropoint import Options
from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.targets import machine

BITS = ("W8A8", "W4A8", "W2A8", "W4A4")
OF_TOKENS = ("W8A8", "W4A8")  # bits of the language model, and tools that take it
TAKE_TOKENS = ("quantize_static", "NNCF")
TARGETS = ("openvino", "onnxruntime", "torch")
BATCH = 50


@dataclass(frozen=True)
class Line:
    """A row of the table: ``how`` names zeropoint's method, or another tool's engine."""

    network: str
    tool: str
    how: str
    bits: str
    target: str = ""


Peer = tuple[Callable[..., Any], Callable[..., Path], Callable[..., peers.Call]]


def _nncf(network: nn.Module, example: Tensor, calibration: list[Tensor]) -> Any:
    return peers.nncf_static(network, example, calibration, isinstance(network, trained.Tokens))


def _aimet(bits: int, adaround: bool = False) -> Peer:
    return partial(peers.aimet_static, bits=bits, adaround=adaround), peers.save_eager, peers.load_eager


PEERS: dict[tuple[str, str, str], Peer] = {
    ("FX", "x86", "W8A8"): (
        partial(peers.fx_static, backend="x86"),
        peers.save_jit,
        partial(peers.load_jit, backend="x86"),
    ),
    ("FX", "onednn", "W8A8"): (
        partial(peers.fx_static, backend="onednn"),
        peers.save_jit,
        partial(peers.load_jit, backend="onednn"),
    ),
    ("quantize_static", "onnxruntime", "W8A8"): (
        peers.quantize_static,
        peers.save_onnx,
        peers.load_onnxruntime,
    ),
    ("NNCF", "openvino", "W8A8"): (
        _nncf,
        peers.save_openvino,
        partial(peers.load_openvino, precision="f32"),
    ),
    ("AIMET", "simulated", "W8A8"): _aimet(8),
    ("AIMET", "simulated", "W4A8"): _aimet(4),
    ("AIMET", "AdaRound, simulated", "W4A8"): _aimet(4, adaround=True),
}


def lines() -> Iterator[Line]:
    """All rows."""
    for network in trained.NETWORKS:
        yield Line(network, "float32", "", "W32A32")
        for bits in BITS if network in trained.SIZES else OF_TOKENS:
            for method in ("static", "static-best"):
                for target in TARGETS if bits == "W8A8" and method == "static" else TARGETS[:1]:
                    yield Line(network, "zeropoint", method, bits, target)
        for tool, how, bits in PEERS:
            if network in trained.SIZES or tool in TAKE_TOKENS:
                yield Line(network, tool, how, bits)


def measure(line: Line, folder: str) -> dict[str, Any]:
    """Top-1, agreement and SQNR on the test split, and seconds to quantize; runs in its own process."""
    source = trained.read(folder)
    network = trained.network(source, line.network)
    calibration = trained.calibration(source, line.network)
    test = trained.scored(source, line.network, BATCH)
    started, runs = time.perf_counter(), {"": network}
    if line.tool == "zeropoint":
        given = [trained.as_given(network, batch) for batch in (calibration[0][:2], *calibration)]
        program = zp.capture(trained.unedited(network), given[0])
        options = Options().at(line.bits)
        quantized = zp.quantize(program, line.how, calibration=given[1:], target=line.target, options=options)
        seconds = time.perf_counter() - started
        runs = {"simulated": trained.outputs_of(network, quantized)}
        if line.bits == "W8A8":
            runner = zp.compile(quantized, line.target, batch_size=BATCH)
            runs[line.target] = trained.outputs_of(network, runner)
    elif line.tool == "float32":
        seconds = 0.0
    else:
        quantize, save, load = PEERS[line.tool, line.how, line.bits]
        built = quantize(network, calibration[0][:2], calibration)
        seconds = time.perf_counter() - started
        runs = {line.how: load(save(built, test[0][0], 2, f"{tempfile.mkdtemp()}/peer"), 2)}
    return {"seconds": seconds, "runs": {name: _score(network, run, test) for name, run in runs.items()}}


def _score(
    network: Any, run: Callable[[Tensor], Tensor], test: list[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    meter, right, count = FidelityMeter(), 0, 0
    with torch.inference_mode():
        for inputs, labels in test:
            whole, missing = inputs, BATCH - len(inputs)
            if missing:  # artefacts take whole batches
                whole = torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])])
            wanted, outputs = network(inputs), run(whole)[: len(inputs)]
            judged = labels >= 0
            right += int((outputs.argmax(-1) == labels)[judged].sum())
            count += int(judged.sum())
            seen = judged if labels.dim() == 1 else inputs[:, 1] == 1
            meter.add([wanted[seen]], [outputs[seen]])
    fidelity = meter.result()
    sqnr = fidelity.sqnr_db if fidelity.sqnr_db != float("inf") else None  # JSON has no infinity
    return {"top1": right / count, "agreement": fidelity.agreement, "sqnr_db": sqnr}


def markdown(record: report.Record) -> str:
    """One table per network."""
    parts = []
    for network in dict.fromkeys(row["network"] for row in record["rows"]):
        table = []
        for row in [row for row in record["rows"] if row["network"] == network]:
            name = [row["tool"], row["how"], row["target"] and f"for {row['target']}"]
            if "error" in row:
                table.append([" ".join(filter(None, name)), row["bits"], row["error"], "", "", "", ""])
            for run, score in row.get("runs", {}).items():
                numbers = [f"{100 * score['top1']:.2f}", f"{100 * score['agreement']:.2f}"]
                sqnr = "identical" if score["sqnr_db"] is None else f"{score['sqnr_db']:.1f}"
                cells = [" ".join(filter(None, name)), row["bits"], run, *numbers, sqnr]
                table.append([*cells, f"{row['seconds']:.1f}"])
        head = ["Tool", "Bits", "Run", "Top-1, %", "Agreement, %", "SQNR, dB", "Quantize, s"]
        parts += [f"## {network}\n", report.table(head, table)]
    return "\n".join([*parts, report.where(record["machine"])])


def main(
    folder: Annotated[Path, typer.Argument(help="with models.py and its data")],
    network: Annotated[str | None, typer.Option(help="only this one")] = None,
    tool: Annotated[str | None, typer.Option(help="only this one")] = None,
    how: Annotated[str | None, typer.Option(help="only this method or engine of a tool")] = None,
    bits: Annotated[str | None, typer.Option(help="only these")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Quantize, test, print the table."""
    wanted = [
        line
        for line in lines()
        if network in (None, line.network)
        and tool in (None, line.tool)
        and how in (None, line.how)
        and bits in (None, line.bits)
    ]
    about = {
        "machine": machine.describe() | {"peers": report.versions()},
        "calibration_images": trained.CALIBRATION,
    }
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "accuracy.unfinished.json"
    record = json.loads(unfinished.read_text()) if unfinished.exists() else {}
    if {key: record.get(key) for key in about} != about:
        record = {**about, "rows": []}
    for line in wanted:
        if any(asdict(line).items() <= row.items() for row in record["rows"]):
            continue
        try:
            result = fresh.run(measure, line, str(folder.resolve()))
        except fresh.FailedError as error:
            result = {"error": str(error)}
        record["rows"].append(asdict(line) | result)
        unfinished.write_text(json.dumps(record))
        print(json.dumps(record["rows"][-1]), flush=True)
    report.write(out, "accuracy", record, markdown(record))
    unfinished.unlink(missing_ok=True)
    print(markdown(record))


if __name__ == "__main__":
    typer.run(main)
