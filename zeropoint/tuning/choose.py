"""Choose: the fastest engine for a Program, and the fastest target to quantize a model for, by timing."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zeropoint.data.batches import Loader
from zeropoint.engines import Runner, compile, find, installed, target, unsupported
from zeropoint.errors import Count, InputError, NotNegative, check_value, first_line
from zeropoint.graph.program import Program, at_batch
from zeropoint.measure.latency import Latency, interleave, summarize
from zeropoint.methods import find as find_method
from zeropoint.methods import label, named
from zeropoint.methods.method import Job
from zeropoint.methods.static import placement
from zeropoint.methods.trainable import check_training
from zeropoint.quantization import quantize
from zeropoint.targets.options import Options
from zeropoint.training.task import OwnLoss

Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The engine that was fastest, by its median latency.

    ``latency_ms``: of each engine, fastest first. ``failed``: the engines that could not run the Program,
    each with the reason in one line.

    >>> _, choice = zp.fastest_engine(quantized, engines=["openvino", "onnxruntime"], seconds=0.1)
    >>> choice.engine == next(iter(choice.latency_ms))
    True
    >>> choice.failed
    {}
    """

    engine: str
    latency_ms: dict[str, Latency]
    failed: dict[str, str]


def fastest_engine(
    program: Program,
    *,
    engines: Sequence[str] | None = None,
    threads: int | None = 1,
    batch_size: int = 1,
    seconds: float = 3.0,
    say: Say = lambda _: None,
) -> tuple[Runner, Choice]:
    """The Program on the engine that runs it fastest, found by timing them interleaved for ``seconds``.

    ``engines`` None: those installed. ``threads`` None: all cores. An engine that cannot run the Program is
    left out. ``say`` is called with a line of text at the start of each stage.

    Raises InputError if an engine is unknown or none can run the Program.

    >>> runner, choice = zp.fastest_engine(quantized, engines=["openvino", "onnxruntime"], seconds=0.1)
    >>> runner.engine == choice.engine
    True
    >>> sorted(choice.latency_ms)
    ['onnxruntime', 'openvino']
    """
    _check_numbers(threads, batch_size, seconds)
    programs = dict.fromkeys(_known(engines), program)
    return _fastest(programs, threads, batch_size, seconds, say)


def fastest_target(
    program: Program,
    method: str = "static",
    *,
    calibration: Loader | None = None,
    train: Loader | None = None,
    validation: Loader | None = None,
    options: Options | None = None,
    loss: OwnLoss | None = None,
    engines: Sequence[str] | None = None,
    threads: int | None = 1,
    batch_size: int = 1,
    seconds: float = 3.0,
    say: Say = lambda _: None,
) -> tuple[Program, Choice]:
    """The float ``program`` quantized for the engine that then runs it fastest, on that engine.

    The data, ``options`` and ``loss`` are those of ``quantize``, the rest that of ``fastest_engine``. Engines
    whose rules place the same quantizers share one Program. A method that trains is timed by static
    quantization, which has the same quantizers, and trained for the fastest target only.

    Raises InputError as ``quantize`` and ``fastest_engine`` do.

    >>> names = ["openvino", "onnxruntime"]
    >>> best, choice = zp.fastest_target(program, calibration=batches, engines=names, seconds=0.1)
    >>> best.target == choice.engine
    True
    """
    _check_numbers(threads, batch_size, seconds)
    names, options = _known(engines), options or Options()
    data: dict[str, Any] = {"calibration": calibration, "train": train, "validation": validation}
    trains = find_method(method).needs("train")
    if trains and train is None:
        raise InputError(f"method '{method}' needs train data; give it")
    if trains and train is not None:
        check_training(program, program, train, validation, loss)
    timed = "static" if trains else method
    programs: dict[str, Program] = {}
    failed = {name: reason for name in names if (reason := unsupported(name, timed, options))}
    for group in by_placement(program, timed, [name for name in names if name not in failed], options):
        say(f"{named(timed, options)} for {', '.join(group)}: quantizing")
        quantized = quantize(program, timed, **data, target=group[0], options=options)
        programs |= {name: _named(quantized, name) for name in group}
    _, choice = _fastest(programs, threads, batch_size, seconds, say, failed)
    if not trains:
        return programs[choice.engine], choice
    say(f"{named(method, options)} for {choice.engine}: training")
    return quantize(program, method, **data, target=choice.engine, options=options, loss=loss), choice


def _known(engines: Sequence[str] | None) -> list[str]:
    names = list(dict.fromkeys(installed() if engines is None else engines))
    for name in names:
        find(name)
    return names


def by_placement(program: Program, method: str, names: Sequence[str], options: Options) -> list[list[str]]:
    """The engines in groups that can share one Program: those whose rules make the same of it.

    Float Programs are the same for all; ranges at run time are those that each engine finds.
    """
    if not find_method(method).quantizes:
        return [list(names)] if names else []
    if not find_method(method).needs("calibration"):
        return [[name] for name in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        alike = placement(program, Job(program, target(name, options.processor), options))
        groups.setdefault(alike, []).append(name)
    return list(groups.values())


def _check_numbers(threads: int | None, batch_size: int, seconds: float) -> None:
    check_value("threads", threads, Count | None)
    check_value("batch_size", batch_size, Count)
    check_value("seconds", seconds, NotNegative)


def _named(program: Program, name: str) -> Program:
    """The Program as quantized for another engine with the same placement; bfloat16 knows no target."""
    return dataclasses.replace(program, target=name) if program.target else program


def _fastest(
    programs: Mapping[str, Program],
    threads: int | None,
    batch_size: int,
    seconds: float,
    say: Say,
    failed: Mapping[str, str] | None = None,
) -> tuple[Runner, Choice]:
    """The fastest of one Program per engine; ``failed`` holds engines that are ruled out already."""
    failed, runners = dict(failed or {}), {}
    before = torch.get_num_threads()  # the torch engine sets it for the whole process
    try:
        for name, program in programs.items():
            say(f"{label(program)} on {name}: compiling")
            inputs = at_batch(program, batch_size).example_inputs
            try:
                runner = compile(program, name, threads=threads, batch_size=batch_size)
                runner.flat(*inputs)
                runners[name] = runner
            except Exception as error:  # an engine's failure is no reason not to take another one
                failed[name] = first_line(error)
        for name, reason in failed.items():
            say(f"{name} is left out: {reason}")
        if not runners:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise InputError(f"no engine can run this Program: {reasons or 'none is installed'}")
        say(f"timing {', '.join(runners)}")
        calls = {name: lambda runner=runner: runner.flat(*inputs) for name, runner in runners.items()}
        latencies = {name: summarize(times) for name, times in interleave(calls, seconds=seconds).items()}
    finally:
        torch.set_num_threads(before)
    ranked = dict(sorted(latencies.items(), key=lambda item: item[1].p50))
    fastest = next(iter(ranked))
    return runners[fastest], Choice(fastest, ranked, failed)
