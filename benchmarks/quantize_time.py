"""Time to quantize, from the float model in memory to the artefact on disk, of zeropoint and two other tools.

    python benchmarks/quantize_time.py

Every build has its own process. The tools take turns, and ratios are medians over the turns. Writes
quantize_time.json and quantize_time.md.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import networks
import numpy as np
import report
import typer
from build import Setting, build

from zeropoint.measure.latency import paired_ratio
from zeropoint.targets import machine

RIVALS = {"zeropoint-static-openvino": "nncf", "zeropoint-static-onnxruntime": "quantize_static"}


def measure(model: str, images: int, turns: int) -> report.Record:
    """Seconds of every turn, the peak memory in bytes, and the ratios of paired turns."""
    tools = [tool for pair in RIVALS.items() for tool in pair]
    costs: dict[str, list[report.Record]] = {tool: [] for tool in tools}
    for _ in range(turns):
        for tool in tools:
            with tempfile.TemporaryDirectory() as folder:
                costs[tool].append(build(model, tool, images, [Setting(1, 1)], folder))
            print(f"{model}: {tool}: {costs[tool][-1]['seconds']:.1f} s", flush=True)
    seconds = {tool: np.array([cost["seconds"] for cost in turns]) for tool, turns in costs.items()}
    return {
        "seconds": {tool: list(times) for tool, times in seconds.items()},
        "peak_bytes": {tool: max(cost["peak_bytes"] for cost in turns) for tool, turns in costs.items()},
        "peak_bytes_before": max(cost["peak_bytes_before"] for turns in costs.values() for cost in turns),
        "ratios": {
            f"{ours} ÷ {theirs}": asdict(paired_ratio(seconds[ours], seconds[theirs]))
            for ours, theirs in RIVALS.items()
        },
    }


def markdown(record: report.Record) -> str:
    """The tables of seconds and of peak memory."""
    models = record["models"]
    tools = [tool for pair in RIVALS.items() for tool in pair]
    lines = [[tool, *(f"{np.median(of['seconds'][tool]):.1f}" for of in models.values())] for tool in tools]
    for title in next(iter(models.values()))["ratios"]:
        ratios = [of["ratios"][title] for of in models.values()]
        lines.append([title, *(f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in ratios)])
    peaks = [[tool, *(f"{of['peak_bytes'][tool] / 1e6:.0f}" for of in models.values())] for tool in tools]
    before = ["before it starts", *(f"{of['peak_bytes_before'] / 1e6:.0f}" for of in models.values())]
    about = f"{record['images']} calibration images, {record['turns']} turns, all cores.\n"
    return "\n".join(
        [
            "Seconds from the float model in memory to the artefact on disk. If a ratio is below 1, "
            f"zeropoint is faster. {about}",
            report.table(["Tool", *models], lines),
            "Peak memory of the process in MB; the calibration images are part of it.\n",
            report.table(["Tool", *models], [*peaks, before]),
            report.where(record["machine"]),
        ]
    )


def main(
    names: Annotated[list[str] | None, typer.Argument(help="networks; default: two")] = None,
    images: Annotated[int, typer.Option(help="calibration images")] = 300,
    turns: Annotated[int, typer.Option(help="builds of every tool")] = 3,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
) -> None:
    """Build in turns, compare."""
    about = {"machine": machine.describe() | {"peers": report.versions()}, "images": images, "turns": turns}
    chosen = names or ["resnet50", "efficientnet_v2_s"]
    networks.check(chosen)
    record = {**about, "models": {name: measure(name, images, turns) for name in chosen}}
    report.write(out, "quantize_time", record, markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    typer.run(main)
