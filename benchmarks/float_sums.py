"""What sums in float gain and cost: SQNR and time of both placements, whatever ``static`` would take.

    python benchmarks/float_sums.py --engines openvino

On architectures of coverage.py with random weights, four small inputs in a batch, one thread. Both are timed
in turns. Writes float_sums.json and float_sums.md.
"""

from pathlib import Path
from typing import Annotated
from unittest import mock

import report
import torch
import typer
from architectures import architectures
from coverage_stages import ITEMS, Case, case_of

import zeropoint as zp
from zeropoint.errors import closest
from zeropoint.measure.latency import interleave, paired_ratio
from zeropoint.methods import static
from zeropoint.passes.noise_budget import is_quieter
from zeropoint.targets import machine

ARCHITECTURES = (  # those that amplify no errors
    "timm/twins_svt_small", "timm/davit_tiny", "timm/swinv2_tiny_window8_256", "timm/poolformer_s12",
    "timm/xcit_nano_12_p16_224", "timm/convnext_atto", "timm/levit_128s", "timm/visformer_tiny",
    "timm/efficientformerv2_s0", "timm/fastvit_t8", "timm/lowformer_b0", "timm/repvit_m0_9",
    "timm/regnetz_b16", "timm/gernet_s", "torchvision/resnet18",
)  # fmt: skip
ENGINES = ("openvino", "onnxruntime", "torch")


def measure(case: Case, engine: str, seconds: float) -> report.Record:
    """SQNR of integer and float sums, which of them ``static`` takes, and the ratio of their times."""
    program = zp.capture(case.network, case.calibration[0])
    batches = [(inputs, None) for inputs in case.calibration]
    taken: list[bool] = []
    runners = {}
    for name in ("integer", "float"):

        def decide(*noise: dict[object, float], name: str = name) -> bool:
            taken.append(is_quieter(*noise))
            return name == "float"

        with mock.patch.object(static, "is_quieter", decide):
            made = zp.quantize(program, "static", calibration=batches, target=engine)
        runners[name] = zp.compile(made, engine, batch_size=ITEMS, threads=1)
    found = {name: case.sqnr(case.outputs(runner)) for name, runner in runners.items()}
    inputs = case.evaluation[0]
    calls = {name: lambda run=runner: run(*inputs) for name, runner in runners.items()}
    samples = interleave(calls, seconds=seconds)
    ratio = paired_ratio(samples["float"], samples["integer"])
    return {"sqnr_db": found, "float": any(taken), "ratio": [ratio.median, ratio.low, ratio.high]}


def markdown(record: report.Record) -> str:
    """A row for each network and engine."""
    rows = [
        [
            name,
            engine,
            f"{found['sqnr_db']['integer']:.1f}",
            f"{found['sqnr_db']['float']:.1f}",
            "float" if found["float"] else "integer",
            "{:.2f} ({:.2f} to {:.2f})".format(*found["ratio"]),
        ]
        for name, engines in record["networks"].items()
        for engine, found in engines.items()
    ]
    head = [
        "Network",
        "Engine",
        "Integer sums, dB",
        "Float sums, dB",
        "`static` takes",
        "Time, float ÷ integer",
    ]
    return f"{report.table(head, rows)}\n{report.where(record['machine'])}"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="networks; default: all")] = None,
    engine: Annotated[list[str] | None, typer.Option("--engines", help="repeat for several")] = None,
    seconds: Annotated[float, typer.Option(help="of timing, for each")] = 3.0,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Quantize every network both ways, and time them in turns."""
    torch.set_num_threads(1)
    known, found = architectures(), {}
    for name in names or ARCHITECTURES:
        if name not in known:
            raise SystemExit(f"unknown network {name}; {closest(name, known)}")
        case = case_of(known[name])
        found[name] = {one: measure(case, one, seconds) for one in engine or ENGINES}
        print(name, found[name], flush=True)
    record = {"machine": machine.describe() | {"peers": {}}, "networks": found}
    report.write(out, "float_sums", record, markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    typer.run(main)
