"""Diagnose: where a quantized network loses its accuracy, why, what each layer costs, and what fixes it."""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zeropoint import engines
from zeropoint.data.batches import Loader
from zeropoint.diagnosis.causes import Cause, causes
from zeropoint.diagnosis.fitting import as_float, fit, unfitted
from zeropoint.diagnosis.fixes import Fix, fixes
from zeropoint.engines import load_artefact, lower
from zeropoint.errors import Count, InputError, check_value, first_line
from zeropoint.graph import edits as fx
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.macs import work
from zeropoint.graph.operators import short_name
from zeropoint.graph.program import Program, at_batch, flat_tensors
from zeropoint.graph.signature import flattened
from zeropoint.measure.kernels import kernel_seconds
from zeropoint.measure.latency import interleave, paired_ratio
from zeropoint.measure.layerwise import TOGETHER, Layerwise, Seen, decibels, first_items, layerwise
from zeropoint.measure.simulate import OnProcessor
from zeropoint.methods.static import FITTED
from zeropoint.progress import track
from zeropoint.targets.processor import find as find_processor

ITEMS = 64
TRIED = 6  # layers whose fixes are tried
WORK = 1 << 40  # multiply-accumulates that trying them may take: 16 items of ResNet-50
MEASURED = 8  # fixes, at most, that are measured on layers fitted anew
ADVISED = 5  # fixes whose latency is measured
WORTH_DB = 0.1  # gain from which on a fix is advice
SECONDS = 1.0  # spent timing a fix beside the Program as it is


@dataclass(frozen=True)
class LayerDiagnosis:
    """One operator that reads quantized values, ``name`` being the module's that it comes from.

    SQNRs in dB, None if infinite: ``local_db`` of its output with it alone quantized, ``accumulated_db``
    with all before it, too; ``alone_db`` of the network's outputs with it alone quantized, to first order.
    ``regained_db``: what they gain with it alone left float, to first order. ``milliseconds``: of its kernel
    in the engine, and ``float_milliseconds`` of that in the float network, both by the engine's own profile,
    None if the engine reports none.
    """

    name: str
    operator: str
    weight_bits: int | None
    activation_bits: int | None
    local_db: float | None
    accumulated_db: float | None
    alone_db: float | None
    regained_db: float
    causes: tuple[Cause, ...]
    milliseconds: float | None = None
    float_milliseconds: float | None = None


@dataclass(frozen=True)
class Advice:
    """A fix and its effect, measured: ``gain_db`` at the outputs, ``latency`` over that without, less 1.

    Where the other layers were fitted to data, the gain is that of layers fitted anew, with and without it.
    """

    fix: Fix
    gain_db: float
    latency: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Layers by their cost at the outputs, the worst first, and advice, that of the largest gain first.

    ``sqnr_db``: of the network's outputs, in dB on ``items`` items; None if infinite. ``engine``: on which
    layers and fixes were timed; None if they were not.

    >>> diagnosis = zp.diagnose(quantized, batches, items=8)
    >>> diagnosis.bits, diagnosis.items, diagnosis.engine
    ('W8A8', 8, None)
    >>> costs = [layer.regained_db for layer in diagnosis.layers]
    >>> costs == sorted(costs, reverse=True)
    True
    """

    method: str
    bits: str
    target: str
    engine: str | None
    items: int
    sqnr_db: float | None
    layers: tuple[LayerDiagnosis, ...]
    advice: tuple[Advice, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        advice = [
            {"layer": a.fix.layer, "what": a.fix.what, "gain_db": a.gain_db, "latency": a.latency}
            for a in self.advice
        ]
        return plain | {"layers": [dataclasses.asdict(layer) for layer in self.layers], "advice": advice}


def diagnose(
    program: Program,
    data: Loader,
    *,
    engine: str | None = None,
    items: int = ITEMS,
    threads: int = 1,
    processor: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Looks at a quantized ``program`` on the first ``items`` of ``data``, and times it on an ``engine``.

    ``data`` yields batches of inputs, with or without labels. ``engine`` None: no times. The statistics take
    one pass over the items; only fixes of the worst layers are tried by running the network again.
    ``processor`` names the kind whose arithmetic is simulated; None: the Program's own. Give the Program as
    ``quantize`` returned it: of a Program that was loaded from a file, only the rounded weights are known.

    Raises InputError for a float Program, an engine that reports no times of layers, or data that does not
    fit.

    >>> diagnosis = zp.diagnose(quantized, batches, items=8)
    >>> sorted(layer.name for layer in diagnosis.layers)
    ['0', '3']
    """
    check_value("items", items, Count)
    check_value("threads", threads, Count)
    if program.method in ("fp32", "bf16"):
        raise InputError(f"the Program is {program.method}; quantize it before it is diagnosed")
    if engine is not None and engines.find(engine).layer_seconds is None:
        able = " or ".join(name for name in engines.NAMES if engines.named(name).layer_seconds)
        raise InputError(f"{engine} reports no times of layers; give {able}, or none")
    kind = program.processor if processor is None else find_processor(processor).name
    data = flattened(data, program.signature)
    looked = layerwise(program, data, items, sensitivity=True, processor=kind, description="diagnosing")
    worst = sorted(looked.seen, key=lambda seen: seen.at_outputs, reverse=True)
    times = _times(program, looked, engine, threads, say)
    layers = tuple(_diagnosed(seen, looked, times.get(seen.node.name, (None, None))) for seen in worst)
    advice = _tried(program, looked, worst[:TRIED], data, items, kind)
    if engine is not None:
        advice = _timed(program, advice[:ADVISED], engine, threads, say) + advice[ADVISED:]
    return Diagnosis(
        method=program.method,
        bits=f"W{program.weight_bits}A{program.activation_bits}",
        target=program.target,
        engine=engine,
        items=looked.items,
        sqnr_db=decibels(looked.signal, looked.noise),
        layers=layers,
        advice=tuple(advice),
    )


def fixed(
    program: Program,
    diagnosis: Diagnosis,
    data: Loader,
    *,
    most_latency: float = math.inf,
    processor: str | None = None,
) -> tuple[Program, list[Advice]]:
    """The Program with the advice that still helps after the advice taken before it, and that advice.

    ``most_latency``: how much slower all of it may make the network, as a fraction, by the measured latency
    of each. At most one fix per layer is taken. ``data`` and ``processor`` are those of ``diagnose``.

    >>> diagnosis = zp.diagnose(quantized, batches, items=8)
    >>> better, taken = zp.fixed(quantized, diagnosis, batches)
    >>> set(taken) <= set(diagnosis.advice)
    True
    """
    kind = program.processor if processor is None else find_processor(processor).name
    noise = _judge(program, data, diagnosis.items, kind)
    start, batches = unfitted(program, kind), first_items(program, data, max(diagnosis.items, FITTED))
    before, changed, taken = noise(program), program if start is None else start, list[Advice]()
    for one in diagnosis.advice:
        price = sum(max(other.latency or 0.0, 0.0) for other in (*taken, one))
        if one.fix.layer in {other.fix.layer for other in taken} or price > most_latency:
            continue
        candidate = one.fix.apply(changed)
        better = candidate if start is None else fit(candidate, batches)
        after = noise(better)
        if 10 * math.log10(before / after) >= WORTH_DB:
            program, changed, before = better, candidate, after
            taken.append(one)
    return program, taken


def _diagnosed(seen: Seen, looked: Layerwise, times: tuple[float | None, float | None]) -> LayerDiagnosis:
    weight = seen.weight
    inputs = [one for one in seen.quantizers if one.node in seen.operands]
    # Where errors cancel, as fitted weights have them do, their squares add up to more than there is.
    total = max(looked.noise, sum(other.at_outputs for other in looked.seen), 1e-30)
    left = max(1 - seen.at_outputs / total, 1e-10)
    return LayerDiagnosis(
        name=fx.module_name(seen.node),
        operator=short_name(seen.node.target),
        weight_bits=weight.scheme.bits if weight else None,
        activation_bits=min((one.scheme.bits for one in inputs), default=None),
        local_db=decibels(seen.signal, seen.local),
        accumulated_db=decibels(seen.signal, seen.accumulated),
        alone_db=decibels(looked.signal, seen.at_outputs),
        regained_db=-10 * math.log10(left),
        causes=causes(seen, looked.float_weights),
        milliseconds=times[0],
        float_milliseconds=times[1],
    )


def _tried(
    program: Program, looked: Layerwise, worst: Sequence[Seen], data: Loader, items: int, processor: str
) -> list[Advice]:
    """The fixes of the worst layers that gain something, measured, the largest gain first.

    Where the float network's weights are known, fixes are tried on them, and the best are measured on layers
    fitted anew, beside the Program with its own fitted so.
    """
    candidates = [fix for seen in worst for fix in fixes(looked, seen)]
    affordable = WORK // (work(program) * max(len(candidates), 1))
    noise = _judge(program, data, min(items, max(affordable, TOGETHER)), processor)
    start = unfitted(program, processor)
    advice = _gains(program if start is None else start, candidates, noise, lambda one: one)
    if start is not None and advice:
        batches = first_items(program, data, items)
        best = [one.fix for one in advice[:MEASURED]]
        advice = _gains(start, best, noise, lambda rounded: fit(rounded, batches))
    return advice


def _gains(
    start: Program,
    candidates: Sequence[Fix],
    noise: Callable[[Program], float],
    prepared: Callable[[Program], Program],
) -> list[Advice]:
    """The fixes that gain something where they are applied to ``start`` and the result is ``prepared``."""
    before, advice = noise(prepared(start)), []
    for fix in track(candidates, "trying fixes"):
        gain = 10 * math.log10(before / noise(prepared(fix.apply(start))))
        if gain >= WORTH_DB:
            advice.append(Advice(fix, gain))
    return sorted(advice, key=lambda one: one.gain_db, reverse=True)


def _judge(program: Program, data: Loader, items: int, processor: str) -> Callable[[Program], float]:
    """What gives the squared error of a Program's outputs, to those of the float network of ``program``."""
    float_run, batches = as_float(program), first_items(program, data, items)
    shown = functools.partial(without_hidden, program.signature.input_names)
    expected = [shown(inputs, float_run.flat(*inputs)) for inputs in batches]

    def noise(candidate: Program) -> float:
        total, simulation = 1e-30, OnProcessor(candidate, processor)
        with torch.no_grad():
            for inputs, wanted in zip(batches, expected, strict=True):
                outputs = shown(inputs, flat_tensors(simulation.run(*inputs)))
                pairs = [
                    (a.double(), b) for a, b in zip(outputs, wanted, strict=True) if b.is_floating_point()
                ]
                total += sum(float((a - b).square().sum()) for a, b in pairs)
        return total

    return noise


def _times(
    program: Program, looked: Layerwise, engine: str | None, threads: int, say: Callable[[str], None]
) -> dict[str, tuple[float | None, float | None]]:
    """By the node's name, milliseconds of a layer's kernel in the quantized and in the float network."""
    if engine is None:
        return {}
    say(f"timing layers on {engine}")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate((program, as_float(program))):
            one = at_batch(one, 1)
            path = Path(folder) / f"{number}{engines.find(engine).artefact_name(one)}"
            lower(one, engine, path, threads)
            seconds = kernel_seconds(one, engine, path, [seen.node for seen in looked.seen], threads)
            found.append({name: 1e3 * each for name, each in seconds.items()})
    quantized, floats = found
    return {name: (quantized.get(name), floats.get(name)) for name in {*quantized, *floats}}


def _timed(
    program: Program, advice: list[Advice], engine: str, threads: int, say: Callable[[str], None]
) -> list[Advice]:
    """The advice with what it costs in time: the fixed Programs beside the one as it is, interleaved."""
    say(f"timing fixes on {engine}")
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate([program, *(each.fix.apply(program) for each in advice)]):
            one = at_batch(one, 1)
            path = Path(folder) / f"{number}{engines.find(engine).artefact_name(one)}"
            try:
                lower(one, engine, path, threads)
                runner = load_artefact(engine, path, threads)
                runner.flat(*one.example_inputs)
            except Exception as error:  # a fix that an engine cannot run has no price
                say(f"{engine} cannot run fix {number}: {first_line(error)}")
                continue
            calls[str(number)] = functools.partial(runner.flat, *one.example_inputs)
        samples = interleave(calls, seconds=SECONDS * len(calls))
    return [
        dataclasses.replace(one, latency=paired_ratio(samples[str(number)], samples["0"]).median - 1)
        if {"0", str(number)} <= samples.keys()
        else one
        for number, one in enumerate(advice, start=1)
    ]
