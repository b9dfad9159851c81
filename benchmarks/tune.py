"""Tune on trained networks: what it reaches under a budget, how well it foretells, and NNCF beside it.

    python benchmarks/tune.py FOLDER
    python benchmarks/tune.py FOLDER --network resnet20 --part foretold

FOLDER holds the networks and their images (see trained.py). Metrics that choose are of 2,000 training images;
what was chosen is scored on the test split. Writes tune.json; an interrupted run goes on.
"""

import json
import math
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import peers
import report
import scipy.stats
import torch
import trained
import typer
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.graph.program import at_batch
from zeropoint.graph.signature import flat_loaders
from zeropoint.measure.latency import interleave, paired_ratio
from zeropoint.targets import machine
from zeropoint.tuning import candidates
from zeropoint.tuning.budget import LATENCY, LOSS
from zeropoint.tuning.costs import of_tables, refitted
from zeropoint.tuning.formats import Candidate
from zeropoint.tuning.solve import solve

NETWORKS = ("resnet20", "mobilenetv2", "digits/mobilenet")
PARTS = ("drop", "size", "foretold", "nncf")
ENGINE = "openvino"
DROPS = {"resnet20": 0.1, "mobilenetv2": 0.2, "digits/mobilenet": 0.2}  # points of top-1
CHOICES = 50
BITS = 4.5  # of a weight, on average
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """A trained network, images to calibrate on, to choose by, and to score what was chosen."""

    name: str
    network: nn.Module
    data: zp.Loaders
    scored: Batches

    @property
    def program(self) -> zp.Program:
        """The network, captured."""
        return zp.capture(self.network, next(iter(self.data.evaluation))[0][:2])


def case(folder: str, name: str) -> Case:
    """The case of a network's name."""
    if name.startswith("digits/"):
        from zeropoint import data, models

        digits = data.resolve("digits", batch_size=50)
        whole = [(images, labels) for images, labels in digits.evaluation]
        half = len(whole) // 2
        loaders = zp.Loaders(name, calibration=digits.calibration, evaluation=whole[:half])
        return Case(name, models.find(name, "default").network, loaders, whole[half:])
    source = trained.read(folder)
    images, labels = source.load_images("train", trained.SIZES[name])
    chosen = list(zip(images[-2000:].split(50), labels[-2000:].split(50), strict=True))
    loaders = zp.Loaders(name, calibration=trained.calibration(source, name), evaluation=chosen)
    return Case(name, getattr(source, name)().eval(), loaders, trained.scored(source, name))


def tuned(one: Case, budget: zp.Budget, out: Path) -> tuple[dict[str, Any], zp.Frontier]:
    """What a search reaches, with its score on images that chose nothing."""
    program = one.program
    started = time.perf_counter()
    found = zp.tune(program, one.data, budget, out=out, engines=[ENGINE])
    seconds = time.perf_counter() - started
    chosen = found[found.chosen]
    made = program if chosen.program is None else zp.load(out / chosen.program)
    score = zp.evaluate(made, one.scored, float32=program)
    uniform = next(point for point in found.points if point.uniform == "W8A8")
    assert score.fidelity is not None
    return {
        "budget": str(budget),
        "chosen": dict(sorted(chosen.formats.items())),
        "drop": chosen.drop,
        "sqnr_db": chosen.sqnr_db,
        "size_bytes": chosen.size_bytes,
        "latency_ms": 1e3 * chosen.cost("latency"),
        "of_w8a8": uniform.cost("latency") / chosen.cost("latency"),
        "scored_top1": score.accuracy.top1,
        "scored_drop": -score.change.value if score.change else None,
        "scored_db": score.fidelity.sqnr_db,
        "models": len(found.points),
        "seconds": seconds,
    }, found


def drop(one: Case, out: Path) -> dict[str, Any]:
    """The fastest model with the drop of DROPS."""
    return tuned(one, zp.Budget(max_drop=DROPS[one.name]), out)[0]


def size(one: Case, out: Path) -> dict[str, Any]:
    """The most accurate model of BITS a weight on average, beside uniform W4A8."""
    first = zp.tune(one.program, one.data, zp.Budget(frontier=True), out=out, engines=[ENGINE])
    floats = next(point for point in first.points if point.uniform == "float")
    uniform = next(point for point in first.points if point.uniform == "W4A8")
    weights = sum(cost.weights for cost in first.tables[floats.name].values())
    most = (uniform.size_bytes or 0) + (BITS - 4) / 8 * weights
    found, _ = tuned(one, zp.Budget(max_size=most), out)
    score = zp.evaluate(zp.load(out / str(uniform.program)), one.scored, float32=one.program)
    assert score.fidelity is not None
    beside = {"top1": score.accuracy.top1, "db": score.fidelity.sqnr_db, "size_bytes": uniform.size_bytes}
    return found | {"w4a8": beside}


def foretold(one: Case, out: Path) -> dict[str, Any]:
    """How well latency and noise of random choices are foretold from what a search has measured."""
    budget = zp.Budget(max_drop=DROPS[one.name])
    found = zp.tune(one.program, one.data, budget, out=out, engines=[ENGINE])
    uniform = {point.uniform: point for point in found.points if point.uniform and point.error is None}
    tables = {name: found.tables[point.name] for name, point in uniform.items()}
    start = of_tables(tables, uniform, one.program.module)
    costs = refitted(start, found.points)
    setting = _setting(one, out)
    generator = random.Random(1)
    least, most = float(costs.noise.min(1).sum()) + 1e-6, float(costs.noise.max(1).sum())
    told: list[tuple[float, float]] = []
    seen: list[tuple[float, float]] = []
    for number in range(CHOICES):
        if number % 2:
            columns = [generator.choice(np.flatnonzero(row).tolist()) for row in costs.allowed]
            formats = costs.named(columns)
        else:
            limit = least * (most / least) ** generator.random()
            formats = solve(costs, LATENCY, {LOSS: limit}) or {}
        if not formats:
            continue
        point = candidates.measured(
            setting, Candidate(ENGINE, "static", formats), uniform["W8A8"], uniform["float"]
        )[0]
        if point.error is None and point.noise:
            told.append((costs.predicted(formats, LATENCY), costs.predicted(formats, LOSS)))
            seen.append((point.searched(LATENCY), point.noise))
    times = [abs(a[0] / b[0] - 1) for a, b in zip(told, seen, strict=True)]
    noises = [abs(10 * math.log10(a[1] / b[1])) for a, b in zip(told, seen, strict=True)]
    ranks = scipy.stats.spearmanr([a[1] for a in told], [b[1] for b in seen])
    speed = scipy.stats.spearmanr([a[0] for a in told], [b[0] for b in seen])
    return {
        "choices": len(told),
        "latency_median_error": float(np.median(times)),
        "latency_rank_correlation": float(speed.statistic),
        "noise_median_error_db": float(np.median(noises)),
        "noise_rank_correlation": float(ranks.statistic),
    }


def _setting(one: Case, out: Path) -> candidates.Setting:
    """That of a search in this folder, to measure models with."""
    program = one.program
    data = flat_loaders(one.data, program.signature)
    return candidates.Setting(
        at_batch(program, 1),
        data,
        data.evaluation,
        one.data.evaluation,
        None,
        out,
        zp.Options(),
        1,
        None,
        print,
    )


def nncf(one: Case, out: Path) -> dict[str, Any]:
    """NNCF's accuracy control with the same metric, drop and images, timed beside what tune chose."""
    import nncf as tool
    import openvino

    ours, found = tuned(one, zp.Budget(max_drop=DROPS[one.name]), out)
    example = next(iter(one.data.evaluation))[0][:2]
    model = peers.openvino_float(one.network, example, [])
    pairs = [pair for batch in one.data.evaluation for pair in zip(*batch, strict=True)]
    items = [(image[None].numpy(), int(label)) for image, label in pairs]
    calibration = tool.Dataset([batch.numpy() for batch in one.data.calibration])

    def top1(compiled: Any, batches: Any) -> tuple[float, list[float]]:
        request = compiled.create_infer_request()
        right = [float(request.infer([image])[0].argmax() == label) for image, label in batches]
        return sum(right) / len(right), right

    started = time.perf_counter()
    controlled = tool.quantize_with_accuracy_control(
        model, calibration, tool.Dataset(items, lambda item: item), top1, max_drop=DROPS[one.name] / 100
    )
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = peers.save_openvino(controlled, example[:1], 1, f"{folder}/nncf")
        theirs = peers.load_openvino(path, 1)
        chosen = found[found.chosen]
        runner = zp.compile(
            one.program if chosen.program is None else zp.load(out / chosen.program), ENGINE, threads=1
        )
        image = example[:1].contiguous()
        times = interleave({"ours": lambda: runner.flat(image), "theirs": lambda: theirs(image)}, seconds=4)
        ratio = paired_ratio(times["ours"], times["theirs"])
    compiled = openvino.Core().compile_model(controlled, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    run = lambda inputs: torch.from_numpy(compiled([inputs.numpy()])[0])  # noqa: E731
    score = zp.evaluate(run, one.scored, float32=one.program)
    judged = zp.evaluate(run, one.data.evaluation, float32=one.program)
    assert score.fidelity is not None
    return {
        "ours": ours,
        "seconds": seconds,
        "latency_ours_to_theirs": ratio.median,
        "drop": -judged.change.value if judged.change else None,
        "scored_top1": score.accuracy.top1,
        "scored_db": score.fidelity.sqnr_db,
    }


def main(
    folder: Annotated[str, typer.Argument(help="folder of the networks and images")],
    network: Annotated[list[str] | None, typer.Option(help="repeat for several; default: all")] = None,
    part: Annotated[list[str] | None, typer.Option(help="repeat for several; default: all")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = report.RESULTS,
    runs: Annotated[Path, typer.Option(help="folder of the searches")] = Path("runs/tune-benchmark"),
) -> None:
    """Measure what is missing."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "tune.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    steps = {"drop": drop, "size": size, "foretold": foretold, "nncf": nncf}
    for name in network or NETWORKS:
        one = case(folder, name)
        for which in part or PARTS:
            key = f"{name} {which}"
            if key in kept:
                continue
            found = steps[which](one, runs / name.replace("/", "-"))
            kept[key] = found | {"machine": machine.describe().get("processor")}
            path.write_text(json.dumps(kept, indent=2) + "\n")
            print(key, json.dumps(found), flush=True)


if __name__ == "__main__":
    typer.run(main)
