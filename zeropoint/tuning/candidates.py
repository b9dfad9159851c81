"""Candidates made and measured: quantized, lowered, checked, evaluated, and timed beside uniform W8A8."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.fx import Node

from zeropoint.data import Loaders
from zeropoint.data.batches import Loader, items_of
from zeropoint.engines import Runner, computes_as, load_artefact, lower
from zeropoint.engines import find as engine
from zeropoint.engines.verify import check_lowering
from zeropoint.errors import InputError, first_line
from zeropoint.graph import edits as fx
from zeropoint.graph.macs import work as arithmetic
from zeropoint.graph.operators import EMBEDDINGS, RECURRENT, family, weighted
from zeropoint.graph.program import Program, at_batch
from zeropoint.measure.evaluate import Evaluation, evaluate_all
from zeropoint.measure.kernels import kernel_seconds
from zeropoint.measure.latency import Latency, interleave, scaled, summarize
from zeropoint.measure.layerwise import layerwise
from zeropoint.measure.size import on_disk
from zeropoint.quantization import quantize
from zeropoint.targets import machine
from zeropoint.targets.options import Options
from zeropoint.tasks import Task
from zeropoint.training.checkpoint import beside
from zeropoint.training.task import OwnLoss
from zeropoint.tuning.formats import Candidate
from zeropoint.tuning.frontier import Cost, Point, drop_of

Table = dict[str, Cost]
PROGRAMS, ARTEFACTS = "programs", "artefacts"  # folders in the run folder
SECONDS = 0.5  # spent timing each of a candidate and what it is compared with
ITEMS, LEAST, WORK = 32, 8, 1 << 36  # items that a table looks at, at most; multiply-accumulates of them


@dataclass(frozen=True, eq=False)  # by identity, for the cache of runners
class Setting:
    """What stays the same from candidate to candidate of a search.

    ``judged``: the batches that metrics are measured on, ``own`` those as the user gave them. ``program`` has
    the batch size at which latency is measured.
    """

    program: Program
    data: Loaders
    judged: Loader
    own: Loader
    task: Task | None
    folder: Path
    options: Options
    threads: int
    loss: OwnLoss | None
    say: Callable[[str], None]


def measured(
    setting: Setting, candidate: Candidate, beside: Point | None, floats: Point | None
) -> tuple[Point, Table]:
    """The candidate as a Point, whose ``error`` says why an engine cannot run it.

    Of a uniform one also the Table, else an empty one. It is timed beside another point, by their ratio, and
    compared with the float model ``floats`` of the same engine; None for eager PyTorch.
    """
    started, costs = time.perf_counter(), Table()
    point = Point(candidate.name, candidate.engine, candidate.method, dict(candidate.formats))
    try:
        program, path = _made(setting, candidate)
        point = replace(point, artefact=_inside(setting, path), program=_program_of(setting, candidate))
        point = _with_accuracy(point, _evaluated(setting, candidate, program, path, floats))
        if point.uniform is not None:
            costs = _table(setting, candidate, program, path)
        latency = _latency(setting, point, beside)
        point = replace(point, size_bytes=on_disk(path), search_ms=latency.p50, latency_ms=latency)
    except InputError as error:
        point = replace(point, error=str(error))
    except Exception as error:  # an engine's failure is a point that failed, not the end of the search
        point = replace(point, error=first_line(error)[:300])
    return replace(point, seconds=time.perf_counter() - started), costs


def read(setting: Setting, candidate: Candidate, *others: Point | None) -> tuple[str, ...]:
    """The files of the run folder that ``measured`` reads: artefacts of others, and what is half done."""
    paths = [beside(setting.folder / str(_program_of(setting, candidate)))]
    for point in others:
        if point is not None and point.artefact is not None:
            paths += engine(point.engine).files(setting.folder / point.artefact)
    return tuple(_inside(setting, path) for path in paths if path.exists())


def _table(setting: Setting, candidate: Candidate, program: Program, path: Path) -> Table:
    """What each layer costs: its error with the weights as they were fitted, and the time of its kernels."""
    noise: dict[str, float] = {}
    if not candidate.is_float:
        items = max(LEAST, min(ITEMS, WORK // arithmetic(program)))
        data, told = setting.data.calibration, "looking at layers"
        looked = layerwise(program, data, items, sensitivity=True, fitted=True, description=told)
        for seen in looked.seen:
            name = fx.module_name(seen.node)
            noise[name] = noise.get(name, 0.0) + seen.at_outputs / max(looked.signal, 1e-30)
    layers = [node for node in program.module.graph.nodes if _is_layer(node)]
    sized = at_batch(program, items_of(setting.program.example_inputs))
    seconds = kernel_seconds(sized, candidate.engine, path, layers, setting.threads)
    found = Table()
    for node in layers:
        name = fx.module_name(node)
        if candidate.is_float or name in noise:
            before = found.get(name, Cost(0, 0.0, noise.get(name, 0.0)))
            weights = max(before.weights, _weights(program, node))
            taken = before.seconds + seconds.get(node.name, 0.0)
            found[name] = replace(before, weights=weights, seconds=taken)
    return found


def timed(setting: Setting, points: Mapping[str, Point]) -> dict[str, Latency]:
    """The latencies of all points, timed interleaved."""
    calls = {name: _call(setting, point) for name, point in points.items()}
    samples = interleave(calls, seconds=SECONDS * len(calls))
    return {name: summarize(times) for name, times in samples.items()}


def _made(setting: Setting, candidate: Candidate) -> tuple[Program, Path]:
    """The candidate's Program and artefact."""
    program, made = setting.program, engine(candidate.engine)
    if not candidate.is_float:
        file = setting.folder / str(_program_of(setting, candidate))
        torch.set_num_threads(machine.cores())
        program = quantize(
            program,
            candidate.method,
            calibration=setting.data.calibration,
            train=setting.data.train,
            validation=setting.data.validation,
            target=candidate.engine,
            options=candidate.options(setting.options),
            checkpoint=beside(file),
            loss=setting.loss,
        )
        program.save(file)
        beside(file).unlink(missing_ok=True)
    sized = at_batch(program, items_of(setting.program.example_inputs))
    path = setting.folder / ARTEFACTS / f"{candidate.name}{made.artefact_name(sized)}"
    lower(sized, candidate.engine, path, setting.threads)
    return program, path


def _program_of(setting: Setting, candidate: Candidate) -> str | None:
    return None if candidate.is_float else f"{PROGRAMS}/{candidate.name}.pt2"


def _evaluated(
    setting: Setting, candidate: Candidate, program: Program, path: Path, floats: Point | None
) -> Evaluation:
    cores = machine.cores()
    runner = load_artefact(candidate.engine, path, cores, program)
    check_lowering(
        program,
        runner.run,
        candidate.engine,
        1 if program.dynamic_batch else items_of(setting.program.example_inputs),
        computes_as(candidate.engine, program.processor),
    )
    reference: Program | Runner = setting.program
    if candidate.is_float:  # it was just compared with the network, which takes longer than an engine
        reference = runner
    elif floats is not None:
        reference = _reference(setting, floats.engine, str(floats.artefact))
    return evaluate_all(
        {"": runner},
        setting.judged,
        float32=reference,
        task=setting.task,
        own=setting.own,
        description=f"{candidate.name}: evaluating",
    )[""]


@functools.lru_cache(maxsize=2)
def _reference(setting: Setting, engine: str, artefact: str) -> Runner:
    return load_artefact(engine, setting.folder / artefact, machine.cores(), setting.program)


def _with_accuracy(point: Point, evaluation: Evaluation) -> Point:
    fidelity, measures = evaluation.fidelity, evaluation.measures
    measure = measures[0] if measures else evaluation.agreement
    drop = drop_of(evaluation.change, measure) if measure is not None else None
    value = evaluation.values.get(measures[0].name) if measures else None
    sqnr = fidelity.sqnr_db if fidelity else None
    agreement = fidelity.agreement if fidelity else None
    if sqnr is not None and sqnr != sqnr:
        raise InputError("an output holds NaN or infinity")
    return replace(
        point,
        value=agreement if value is None else value,
        agreement=agreement,
        items=evaluation.accuracy.images,
        sqnr_db=sqnr if sqnr is not None and np.isfinite(sqnr) else None,
        drop=drop[0] if drop else None,
        drop_low=drop[1] if drop else None,
        drop_high=drop[2] if drop else None,
    )


def _latency(setting: Setting, point: Point, beside: Point | None) -> Latency:
    """That of a call, by the ratio to the point beside it."""
    calls = {"own": _call(setting, point)}
    if beside is not None:
        calls["beside"] = _call(setting, beside)
    samples = interleave(calls, seconds=SECONDS * len(calls))
    own = summarize(samples["own"])
    if beside is None or beside.search_ms is None:
        return own
    return scaled(own, beside.search_ms * own.p50 / (1e3 * float(np.median(samples["beside"]))))


def _call(setting: Setting, point: Point) -> Callable[[], object]:
    loaded = load_artefact(point.engine, setting.folder / str(point.artefact), setting.threads)
    inputs = setting.program.example_inputs
    loaded.flat(*inputs)
    return lambda: loaded.flat(*inputs)


def _inside(setting: Setting, path: Path) -> str:
    return str(path.relative_to(setting.folder))


def _is_layer(node: Node) -> bool:
    if node.op != "call_function":
        return False
    kinds = EMBEDDINGS | RECURRENT
    return weighted(node) is not None or node.target in kinds or family(node) == "product"


def _weights(program: Program, node: Node) -> int:
    """The number of weights that a layer reads, through quantizers."""
    found, waiting = set[Node](), list(node.all_input_nodes)
    while waiting:
        one = waiting.pop()
        if fx.is_stored(one):
            found.add(one)
        elif one.op == "call_function" and all(fx.is_stored(part) for part in one.all_input_nodes):
            waiting += one.all_input_nodes
    sizes = [fx.tensor_of(program.module, one) for one in found]
    return sum(tensor.numel() for tensor in sizes if isinstance(tensor, torch.Tensor) and tensor.dim() > 1)
