"""The measured tables of docs/published: one function for each page, from its subjects to tables of text.

A table is its head and its rows. ``Subject`` is a network with its data; published.py chooses the networks.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zeropoint as zp
from zeropoint.data.batches import split
from zeropoint.graph.program import Program, parameter_bytes
from zeropoint.measure.evaluate import Evaluation
from zeropoint.measure.latency import interleave, paired_ratio, summarize
from zeropoint.measure.size import on_disk

Table = tuple[list[str], list[list[str]]]
MB = 1e6


@dataclass(frozen=True)
class Subject:
    """A float network, and the batches that it is calibrated, trained and judged on."""

    name: str
    network: nn.Module
    calibration: Sequence[Any]
    evaluation: Any
    train: Any = None
    validation: Any = None
    training: zp.TrainingOptions = field(default_factory=zp.TrainingOptions)

    def program(self) -> Program:
        """The captured network."""
        return zp.capture(self.network, self.calibration[0][:2])


@dataclass(frozen=True)
class Timing:
    """How long rows are timed, at which batch size, on which engines."""

    seconds: float = 8.0
    rounds: int = 10
    batch: int = 1
    engines: tuple[str, ...] = ("torch", "onnxruntime", "openvino")


def resnet18(subject: Subject, timing: Timing, image: Tensor, folder: Path) -> dict[str, Table]:
    """Float, dynamic, static and QAT: latency on every engine; accuracy and sizes for the last of them.

    ``folder`` keeps the state of QAT: an interrupted one goes on from there, a finished one is read.
    """
    program = subject.program()
    made = {"fp32": dict.fromkeys(timing.engines, program)}
    for name in ("dynamic", "static"):
        made[name] = {
            engine: zp.quantize(program, name, calibration=subject.calibration, target=engine)
            for engine in timing.engines
        }
    made["qat"] = {
        engine: zp.train_quantized(
            program,
            subject.train,
            calibration=subject.calibration,
            validation=subject.validation,
            target=engine,
            options=zp.Options(training=subject.training),
            folder=folder / engine,
            resume=(folder / engine).exists(),
        )
        for engine in timing.engines
    }
    judged = {name: programs[timing.engines[-1]] for name, programs in made.items()}
    scores = {name: _judged(one, subject, program) for name, one in judged.items()}
    times = _latencies(subject.network, made, timing, image)
    rows = []
    for name, one in judged.items():
        top1, sqnr = scores[name].accuracy.top1, scores[name].fidelity
        decibels = f"{sqnr.sqnr_db:.1f}" if sqnr and name != "fp32" else "–"
        rows.append([f"`{name}`", _percent(top1), _loss(scores[name]), decibels, *_sizes(one)])
    head = ["method", "top-1, %", "loss", "SQNR, dB", "weights, MB", "`.pt2`, MB"]
    engines = [["eager PyTorch, float32", *times.pop("eager"), "1.00"]]
    engines += [[label, *numbers] for label, numbers in times.items()]
    changes = [[f"`{name}`", _interval(scores[name])] for name in ("dynamic", "static", "qat")]
    return {
        "methods": (head, rows),
        "latency": (["row", "p50, ms", "p90, ms", "÷ eager"], engines),
        "changes": (["method", "top-1 − float's, points (95% interval)"], changes),
    }


def resnet50(judged: Subject, timed: Subject, timing: Timing, image: Tensor) -> dict[str, Table]:
    """Float, dynamic, and static with nothing fused, all but the first convolution, and everything."""
    first = next(name for name, one in judged.network.named_modules() if isinstance(one, nn.Conv2d))
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "`fp32`": ("fp32", {}),
        "`dynamic`": ("dynamic", {}),
        "`static --no-fuse '*'`": ("static", {"no_fuse": ("*",)}),
        f"`static --no-fuse {first}`": ("static", {"no_fuse": (first,)}),
        "`static`": ("static", {}),
    }
    programs: dict[str, dict[str, dict[str, Program]]] = {}
    for key, subject in (("judged", judged), ("timed", timed)):
        program = subject.program()
        own = next(name for name, one in subject.network.named_modules() if isinstance(one, nn.Conv2d))
        programs[key] = {}
        for label, (method, chosen) in variants.items():
            fixed = {
                key: tuple(own if one == first else one for one in value) for key, value in chosen.items()
            }
            programs[key][label] = {
                engine: program
                if method == "fp32"
                else zp.quantize(
                    program,
                    method,
                    calibration=subject.calibration,
                    target=engine,
                    options=zp.Options(**fixed),
                )
                for engine in (timing.engines if key == "timed" else timing.engines[-1:])
            }
    last = timing.engines[-1]  # whose rules loss, accuracy and size are of
    reference = programs["judged"]["`fp32`"][last]
    times = _latencies(timed.network, programs["timed"], timing, image)
    rows = []
    for label, made in programs["judged"].items():
        score = _judged(made[last], judged, reference)
        row = [label, _loss(score), _percent(score.accuracy.top1), *_sizes(programs["timed"][label][last])]
        for engine in timing.engines:
            row.append(f"{float(times[f'{label} on {engine}'][0]) / timing.batch:.2f}")
        rows.append(row)
    eager = f"{float(times['eager'][0]) / timing.batch:.2f}"
    rows.insert(0, ["eager PyTorch", rows[0][1], rows[0][2], "", "", *[eager] * len(timing.engines)])
    head = ["row", "loss", "top-1, %", "weights, MB", "`.pt2`, MB"]
    return {"fusion": ([*head, *(f"{engine}, ms" for engine in timing.engines)], rows)}


def sizes(subjects: Sequence[Subject], theirs: Sequence[str], engines: Sequence[str]) -> dict[str, Table]:
    """What float32 and int8 take on disk, and how many times less int8 takes."""
    rows = []
    for subject, factor in zip(subjects, theirs, strict=True):
        program = subject.program()
        static = zp.quantize(program, "static", calibration=subject.calibration)
        with tempfile.TemporaryDirectory() as folder:
            torch.save(subject.network.state_dict(), f"{folder}/state.pt")
            before = on_disk(f"{folder}/state.pt")
            pair = [_saved(one) for one in (program, static)]
            artefacts = [
                on_disk(zp.compile(static, engine, path=f"{folder}/model", verify=False).artefact)
                for engine in engines
            ]
        numbers = [before, *pair, *artefacts]
        shrunk = [f"{pair[0] / pair[1]:.2f}", *(f"{before / size:.2f}" for size in artefacts)]
        rows.append([subject.name, *(f"{number / MB:.2f}" for number in numbers), *shrunk, factor])
    head = ["network", "state dict, MB", "float `.pt2`", "int8 `.pt2`", *(f"int8 {name}" for name in engines)]
    head += ["`.pt2` ×", *(f"{name} ×" for name in engines), "theirs ×"]
    return {"sizes": (head, rows)}


def choices(subject: Subject, trained: Subject, engines: Sequence[str]) -> dict[str, Table]:
    """One small table for each choice that a user makes."""
    program = subject.program()

    def row(name: str, method: str = "static", **chosen: Any) -> list[str]:
        target = chosen.pop("target", "openvino")
        calibration = chosen.pop("calibration", subject.calibration)
        options = zp.Options(**{"rounding": "nearest", **chosen})
        made = zp.quantize(program, method, calibration=calibration, target=target, options=options)
        score = _judged(made, subject, program)
        assert score.fidelity is not None
        numbers = [_percent(score.accuracy.top1), _percent(score.fidelity.agreement)]
        return [name, *numbers, f"{score.fidelity.sqnr_db:.1f}", _sizes(made)[0]]

    head = ["choice", "top-1, %", "agreement, %", "SQNR, dB", "weights, MB"]
    names = {"minmax": "min-max", "moving-average": "moving average of batches", "percentile": "percentile"}
    names |= {"entropy": "histogram, entropy", "mse": "histogram, squared error (L2)"}
    ranges = [row(name, ranges=key) for key, name in names.items()]
    coarse = [row(name, ranges=key, activation_bits=4, eight_bit_share=0.0) for key, name in names.items()]
    shapes = [
        row("activations affine, weights symmetric (default)"),
        row("activations symmetric", activation_symmetric=True, target="onnxruntime"),
        row("weights affine", weight_symmetric=False, target="onnxruntime"),
    ]
    grains = [
        row(f"W{bits}, {grain}", weight_bits=bits, weight_granularity=grain, weight_ranges="minmax")
        for bits in (8, 4)
        for grain in ("per-tensor", "per-channel")
    ]
    bits = [row(at, rounding="gptq", **_bits(at)) for at in ("W8A16", "W8A8", "W4A8", "W4A4", "W2A8")]
    bits.append(row("W8A8 `weight-only`", "weight-only"))
    images = torch.cat([split(batch)[0][0] for batch in subject.calibration])
    counts = [
        row(f"{count}", rounding="gptq", calibration=images[:count].split(32))
        for count in (1, 4, 16, 64, 256)
        if count <= len(images)
    ]
    counts.append(row("256, noise", rounding="gptq", calibration=torch.randn_like(images).split(32)))
    return {
        "ranges": (head, ranges),
        "ranges4": (head, coarse),
        "symmetry": (head, shapes),
        "granularity": (head, grains),
        "bits": (head, bits),
        "images": (["images", *head[1:]], counts),
        "when": (["bits", "float, %", "`static`, %", "`qat`, %"], _when(trained)),
        "backends": (head, _backends(subject, engines)),
    }


def _bits(text: str) -> dict[str, int]:
    options = zp.Options().at(text)
    return {"weight_bits": options.weight_bits, "activation_bits": options.activation_bits}


def _when(subject: Subject) -> list[list[str]]:
    """Quantized after training, and trained with quantizers."""
    program, rows = subject.program(), []
    before = _percent(_judged(program, subject, program).accuracy.top1)
    for bits in ("W8A8", "W4A4", "W2A4"):
        options = replace(zp.Options(training=subject.training).at(bits))
        static = zp.quantize(program, calibration=subject.calibration, options=options)
        trained = zp.train_quantized(
            program,
            subject.train,
            calibration=subject.calibration,
            validation=subject.validation,
            options=options,
        )
        found = [_percent(_judged(one, subject, program).accuracy.top1) for one in (static, trained)]
        rows.append([bits, before, *found])
    return rows


def _backends(subject: Subject, engines: Sequence[str]) -> list[list[str]]:
    """The same network as each engine's rules place quantizers, and for processors of other kinds."""
    program, rows = subject.program(), []
    for target, processor in [
        *((one, "native") for one in engines),
        ("openvino", "arm"),
        ("openvino", "any"),
    ]:
        options = zp.Options(processor=processor)
        made = zp.quantize(program, calibration=subject.calibration, target=target, options=options)
        run = zp.compile(made, target, threads=1, batch_size=50) if processor == "native" else made
        score = _judged(run, subject, program)
        assert score.fidelity is not None
        where = f"{target}, run" if processor == "native" else f"for {processor}, simulated"
        numbers = [_percent(score.accuracy.top1), _percent(score.fidelity.agreement)]
        rows.append([where, *numbers, f"{score.fidelity.sqnr_db:.1f}", _sizes(made)[0]])
    return rows


def _judged(run: Any, subject: Subject, float32: Any) -> Evaluation:
    return zp.evaluate(run, subject.evaluation, float32=float32)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _loss(score: Evaluation) -> str:
    return "–" if score.accuracy.loss is None else f"{score.accuracy.loss:.4f}"


def _interval(score: Evaluation) -> str:
    change = score.change
    if change is None:
        return "–"
    return f"{100 * change.value:+.2f} ({100 * change.low:+.2f} to {100 * change.high:+.2f})"


def _saved(program: Program) -> int:
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "m.pt2")
        return on_disk(Path(folder) / "m.pt2")


def _sizes(program: Program) -> list[str]:
    return [f"{parameter_bytes(program) / MB:.2f}", f"{_saved(program) / MB:.2f}"]


def _latencies(
    network: nn.Module, programs: dict[str, dict[str, Program]], timing: Timing, image: Tensor
) -> dict[str, list[str]]:
    """Median, 90th percentile and ratio to eager float32 of every program on its engine, interleaved."""
    runs: dict[str, Callable[[], object]] = {}
    torch.set_num_threads(1)

    def eager() -> object:
        with torch.inference_mode():
            return network(image)

    runs["eager"] = eager
    for name, made in programs.items():
        for engine, program in made.items():
            runner = zp.compile(program, engine, threads=1, batch_size=timing.batch)
            runs[f"{name} on {engine}"] = lambda runner=runner: runner(image)
    samples = interleave(runs, seconds=timing.seconds, min_rounds=timing.rounds)
    found = {}
    for name, seconds in samples.items():
        latency, ratio = summarize(seconds), paired_ratio(seconds, samples["eager"])
        found[name] = [f"{latency.p50:.2f}", f"{latency.p90:.2f}"]
        if name != "eager":
            found[name].append(f"{ratio.median:.3f}")
    return found
