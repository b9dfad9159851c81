"""Quantize parts: the submodules that can be captured of a model that cannot be captured whole."""

import dataclasses
import fnmatch
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from zeropoint import engines, progress
from zeropoint.data.batches import Loader, check, limit
from zeropoint.errors import Count, InputError, InputWarning, check_value, closest, first_line
from zeropoint.graph.capture import capture, unwrapped
from zeropoint.graph.program import Program
from zeropoint.graph.verify import same
from zeropoint.measure.fidelity import FidelityMeter
from zeropoint.methods import find
from zeropoint.parts.calibrate import quantize_on
from zeropoint.parts.closeness import compared
from zeropoint.parts.decoder import DECODER, OnEngineDecoder, decoder_program
from zeropoint.parts.replace import OnEngine, copied, replaced
from zeropoint.parts.result import Part, Parts, Refused
from zeropoint.parts.survey import Calls, Seen, Source, Use, Way, survey, usual
from zeropoint.quantization import check_target
from zeropoint.targets.options import Options
from zeropoint.targets.recipe import PLACES, matches

AUTO = "auto"
LEAST_SHARE = 0.01  # of the multiply-accumulates; what does less is not worth a call of an engine


def quantize_parts(
    model: nn.Module,
    calibration: Loader,
    *,
    method: str = "static",
    engine: str = "openvino",
    parts: str | Sequence[str] = AUTO,
    options: Options | None = None,
    run: Use | None = None,
    threads: int | None = None,
) -> Parts:
    """The user's ``model`` with the largest submodules that can be quantized on an engine, all else as it is.

    It is for models that cannot be captured whole. ``calibration`` yields batches as the model's loader does;
    on each the model is called by ``forward``, or by ``run(model, batch)``, such as
    ``lambda model, batch: model.generate(**batch)``. What it then feeds to a submodule calibrates that.
    ``parts`` is ``auto``: the model itself, or else its submodules, down to 1% of the multiply-accumulates;
    or it is one or more globs over names of submodules; or ``decoder``: a language model of transformers as
    one part, with the key-value cache of ``generate``. A submodule is refused, with the reason, if it cannot
    be captured, writes into its arguments, or is called in several ways; then the modules in it are tried.
    One that is called with inputs of several sizes takes other sizes, too. Names in ``options`` are those of
    the whole model. ``threads`` are the engine's, by default all cores.

    The model is not changed. The copy in the result shares its parameters. Calls of a submodule are recorded
    up to 256 MB; if there are more, the model runs again for every pass over them.

    Raises InputError for a model that fails on the batches, and if no part can be quantized.

    >>> parts = zp.quantize_parts(model, batches, parts=["0", "3"])
    >>> [(part.name, round(part.share, 2)) for part in parts.parts]
    [('0', 0.84), ('3', 0.16)]
    """
    options = options or Options()
    check_value("threads", threads, Count | None)
    _check(method, engine, options)
    check(calibration, "the calibration data")
    network = copied(unwrapped(model))
    batches = limit(calibration, options.calibration_batches)
    source = Source(network, batches, run or usual(network, batches))
    if parts in (DECODER, [DECODER]):
        return _decoder(source, method, engine, options, threads)
    globs = None if parts in (AUTO, [AUTO]) else (parts,) if isinstance(parts, str) else tuple(parts)
    options.check_patterns(names := [name for name, _ in network.named_modules()])
    for glob in globs or ():
        if not fnmatch.filter(names, glob):
            raise InputError(f"no module of the model matches '{glob}'; {closest(glob, filter(None, names))}")
    progress.say("recording the calls of every module")
    job = _Job(source, *survey(source), method, engine, options, threads)
    found, refused = _search(job, globs)
    if not found:
        reasons = "; ".join(f"{one.name or 'the model'}: {one.reason}" for one in refused[:5])
        raise InputError(f"no part of the model can be quantized: {reasons or 'none has weights'}")
    made = replaced(network, {part.name: part.forward for part in found})
    progress.say("comparing the whole with the float model")
    return Parts(made, engine, tuple(found), tuple(refused), compared(source, made))


def _decoder(source: Source, method: str, engine: str, options: Options, threads: int | None) -> Parts:
    """A decoder with its cache, whole, as the one part of the model."""
    program = decoder_program(source.model, source.batches, method, engine, options)
    forward = OnEngineDecoder(engines.compile(program, engine, threads=threads, shapes=0), source.model)
    made = replaced(source.model, {"": forward})
    outputs = compared(source, made)
    sqnr_db = min((one.sqnr_db for one in outputs if one.sqnr_db is not None), default=0.0)
    part = Part("", sum(1 for _ in source.batches), 1.0, sqnr_db, program, forward)
    return Parts(made, engine, (part,), (), outputs)


def _check(method: str, engine: str, options: Options) -> None:
    engines.find(engine)
    if find(method).needs("train"):
        raise InputError(f"method '{method}' trains a whole model; give another one for parts")
    check_target(engines.target(engine, options.processor), method, options)


@dataclass(frozen=True)
class _Job:
    """From what, and how, parts are made."""

    source: Source
    seen: dict[str, Seen]
    macs: int
    method: str
    engine: str
    options: Options
    threads: int | None

    def share(self, name: str) -> float:
        """The share of a module in the multiply-accumulates of the model."""
        return self.seen[name].macs / max(1, self.macs)


def _search(job: _Job, globs: Sequence[str] | None) -> tuple[list[Part], list[Refused]]:
    """The parts that were made, from outside to inside, and what was refused."""
    found: list[Part] = []
    refused: list[Refused] = []
    for name, module in job.source.model.named_modules():
        if any(not part.name or f"{name}.".startswith(f"{part.name}.") for part in found):
            continue
        if globs is None:
            if job.share(name) < LEAST_SHARE or next(module.parameters(), None) is None:
                continue
        elif not any(fnmatch.fnmatchcase(name, glob) for glob in globs):
            continue
        progress.say(f"{name or 'the whole model'}: trying")
        try:
            found.append(_part(job, name))
        except Exception as error:  # whatever a capture or an engine raises: smaller parts are tried
            refused.append(Refused(name, first_line(error)))
    return found, refused


def _part(job: _Job, name: str) -> Part:
    """A submodule on the engine. Raises an exception with the reason why it cannot be."""
    seen = job.seen[name]
    if not seen.calls:
        raise InputError("the calibration data never calls it")
    if seen.trouble:
        raise InputError(seen.trouble)
    if len(seen.ways) > 1:
        raise InputError(f"it is called in {len(seen.ways)} ways: {_different(*list(seen.ways)[:2])}")
    options = _inside(job.options, job.source.model, name)
    calls = Calls(job.source, name)
    example = max(calls, key=lambda call: call.size)
    args, kwargs = calls.signature.call(example.inputs)
    module, free_sizes = job.source.model.get_submodule(name), len(seen.sizes) > 1
    with warnings.catch_warnings(action="ignore", category=InputWarning):  # of sizes that the module fixes
        program = capture(module, args, kwargs, free_sizes=free_sizes, origin=name)
    _check_capture(program, calls)
    with progress.about(name or "the whole model"):
        quantized = quantize_on(
            program, lambda: (call.inputs for call in calls), job.method, job.engine, options
        )
    runner = engines.compile(quantized, job.engine, threads=job.threads)
    meter = FidelityMeter()
    for call in calls:
        meter.add(call.outputs, runner.flat(*call.inputs))
    forward = OnEngine(runner, tuple(tensor.dtype for tensor in example.outputs))
    return Part(name, seen.calls, job.share(name), meter.result().sqnr_db, quantized, forward)


def _check_capture(program: Program, calls: Calls) -> None:
    """Raises InputError if the Program gives something else than the module in the model: it has a state."""
    for number, call in enumerate(calls, 1):
        if not same(list(call.outputs), list(program.flat(*call.inputs))):
            raise InputError(f"its captured graph computes something else on call {number}: it keeps a state")


def _different(one: Way, other: Way) -> str:
    """Where two ways of a call differ first, in words."""
    first, second = dict(one), dict(other)
    path = next(path for path in first | second if first.get(path) != second.get(path))
    return f"argument {path} is {first.get(path, 'missing')} and {second.get(path, 'missing')}"


def _inside(options: Options, model: nn.Module, name: str) -> Options:
    """The options for a part, whose modules are named from the part on.

    Raises InputError if the part is skipped.
    """
    if not name:
        return options
    if matches(name, options.skip):
        raise InputError("it is skipped")
    inner = [one for one, _ in model.get_submodule(name).named_modules() if one]

    def within(globs: Sequence[str]) -> tuple[str, ...]:
        if matches(name, globs):
            return ("*",)
        return tuple(
            one for one in inner if any(fnmatch.fnmatchcase(f"{name}.{one}", glob) for glob in globs)
        )

    rows = tuple(
        dataclasses.replace(row, layers=one)
        for row in options.recipe
        for one in ((row.layers,) if row.layers in PLACES else within((row.layers,)))
    )
    return dataclasses.replace(
        options,
        recipe=rows,
        skip=within(options.skip),
        no_fuse=within(options.no_fuse),
        activation16=within(options.activation16),
    )
