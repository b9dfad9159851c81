"""Survey: how a model calls its modules while it runs on data, and the arithmetic that each of them does."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zeropoint.data.batches import LABELS, Batch, Loader, reading
from zeropoint.data.nested import constants, flatten
from zeropoint.errors import InputError, first_line
from zeropoint.graph.signature import Call, Signature, of_call

Use = Callable[[nn.Module, Batch], Any]
"""How a model is used on a batch: it calls the model and gives back what it computed."""

Way = tuple[tuple[str, str], ...]
"""The structure of a call: what is at each path of its arguments, in words."""

UNLABELLED, TARGETS = "keywords without labels", "inputs and targets"  # ways to read batches with targets
KEPT = 256 << 20  # bytes of recorded calls; where there are more, the model runs again for each pass


@dataclass(frozen=True)
class Source:
    """A float ``model`` in eval mode, the ``batches`` that it runs on, and how."""

    model: nn.Module
    batches: Loader
    use: Use

    def __iter__(self) -> Iterator[Any]:
        """What the model gives on each batch."""
        return self.outputs(self.model)

    def outputs(self, model: nn.Module) -> Iterator[Any]:
        """What ``model`` gives on each batch. It draws the same random numbers every time."""
        for batch in reading(self.batches, "the data"):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)
                output = self.use(model, batch)
            yield output


@dataclass(frozen=True)
class Reading:
    """A ``way`` to read the batches of a loader: as arguments of ``forward``, perhaps with targets."""

    way: str

    def __call__(self, model: nn.Module, batch: Batch) -> Any:
        """What the model gives on a batch."""
        args, kwargs = _readings(batch)[self.way]
        return model(*args, **kwargs)

    def targets(self, batch: Batch) -> Any:
        """The targets of a batch, None without."""
        if self.way == UNLABELLED:
            return next((batch[key] for key in LABELS if key in batch), None)
        return batch[-1] if self.way.startswith(TARGETS) else None


def usual(model: nn.Module, batches: Loader) -> Reading:
    """The first way to read a batch on which the model runs.

    A dict holds keyword arguments, with or without its labels; a tuple or list holds positional arguments, or
    arguments and targets, or is the one argument itself, as the list of images of a detector.

    Raises InputError, with the reason of each way, where there is none.
    """
    batch = next(reading(batches, "the calibration data"), None)
    if batch is None:
        raise InputError("the calibration data is empty; give at least one batch")
    failed: list[str] = []
    for way in _readings(batch):
        use = Reading(way)
        try:
            with torch.no_grad():
                use(model, batch)
            return use
        except Exception as error:
            failed.append(f"read as {way}, {type(error).__name__}: {first_line(error)}")
    raise InputError(f"the model fails on a batch of the calibration data: {'; '.join(failed)}")


def _readings(batch: Batch) -> dict[str, Call]:
    """The calls that a batch can mean, the likeliest first."""
    one: dict[str, Call] = {"one argument": ((batch,), {})}
    if isinstance(batch, Mapping):
        given = dict(batch)
        unlabelled = {key: value for key, value in given.items() if key not in LABELS}
        return {UNLABELLED: ((), unlabelled), "keywords": ((), given)} | one
    if not isinstance(batch, tuple | list):
        return one
    whole: dict[str, Call] = {"arguments": (tuple(batch), {})}
    if len(batch) < 2:
        return whole | one
    first, last = batch[0], batch[-1]
    alone = {f"{TARGETS}, {way}": call for way, call in _readings(first).items()}
    alone = alone if len(batch) == 2 else {TARGETS: (tuple(batch[:-1]), {})}
    is_input = isinstance(last, Tensor) and (last.is_floating_point() or last.dim() > 1)
    return whole | alone | one if is_input else alone | whole | one


@dataclass
class Seen:
    """What was seen of a module: its calls and multiply-accumulates, and of its calls the different ways.

    ``sizes`` are those of the tensors but for their first axis. ``trouble`` is what no Program can do.
    """

    calls: int = 0
    macs: int = 0
    ways: dict[Way, None] = field(default_factory=dict)  # in order
    sizes: set[tuple[tuple[int, ...], ...]] = field(default_factory=set)
    trouble: str = ""


def survey(source: Source) -> tuple[dict[str, Seen], int]:
    """What is seen of every module by its name, and all multiply-accumulates; one pass over the batches."""
    seen: dict[str, Seen] = {}
    flops = FlopCounterMode(display=False)
    with contextlib.ExitStack() as hooks:
        for name, module in source.model.named_modules():
            hooks.enter_context(_watched(module, seen.setdefault(name, Seen()), flops))
        with flops:
            for _ in source:
                pass
    return seen, flops.get_total_flops() // 2


@contextlib.contextmanager
def _watched(module: nn.Module, seen: Seen, flops: FlopCounterMode) -> Iterator[None]:
    """Notes what is seen of a module in the block."""
    entered: list[tuple[int, dict[str, Tensor], list[int]]] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        tensors: dict[str, Tensor] = {}
        try:
            tensors, structure = flatten((args, kwargs))
            seen.ways[_way(tensors, structure)] = None
            seen.sizes.add(tuple(tuple(tensor.shape[1:]) for tensor in tensors.values()))
        except Exception as error:  # an argument that cannot be taken apart
            seen.trouble = f"its arguments cannot be taken apart: {first_line(error)}"
        entered.append((flops.get_total_flops(), tensors, [one._version for one in tensors.values()]))

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        flops_before, tensors, versions = entered.pop()
        seen.calls += 1
        seen.macs += (flops.get_total_flops() - flops_before) // 2
        if not seen.trouble and _written((args, kwargs), tensors, versions):
            seen.trouble = "it writes into its arguments, as into a cache"

    handles = (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True, prepend=True, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _way(tensors: dict[str, Tensor], structure: Any) -> Way:
    given = {path: f"a {tensor.dim()}-D {tensor.dtype} tensor" for path, tensor in tensors.items()}
    return tuple((given | {path: repr(value) for path, value in constants(structure).items()}).items())


def _written(call: Any, tensors: dict[str, Tensor], versions: list[int]) -> bool:
    """Whether the tensors in a call are others than before, or were written to."""
    after, _ = flatten(call)
    return after.keys() != tensors.keys() or any(
        after[path] is not tensor or tensor._version != version
        for (path, tensor), version in zip(tensors.items(), versions, strict=True)
    )


@dataclass(frozen=True)
class Recorded:
    """The tensors that go into one call of a module and those that come out, copied."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (*self.inputs, *self.outputs))


class Calls:
    """The calls of one module, recorded while the model runs; iterated any number of times.

    They are kept in memory up to KEPT bytes. Where there are more, each pass runs the model again, and holds
    the calls of one batch.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source, self._module = source, source.model.get_submodule(name)
        self._kept: list[Recorded] | None = None
        self._signature: Signature | None = None

    @property
    def signature(self) -> Signature:
        """How the module is called; known once a call was recorded."""
        assert self._signature is not None
        return self._signature

    def __iter__(self) -> Iterator[Recorded]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Recorded] = []
        size = 0
        for call in self._run():
            size += call.size
            if size > KEPT:
                kept.clear()
            else:
                kept.append(call)
            yield call
        if size <= KEPT:
            self._kept = kept

    def _run(self) -> Iterator[Recorded]:
        calls: list[Recorded] = []

        def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensors, _ = flatten(output)
            signature, inputs = of_call(module.forward, (args, kwargs))
            self._signature = self._signature or signature
            calls.append(Recorded(_copies(inputs), _copies(tuple(tensors.values()))))

        outputs = iter(self._source)
        while True:
            calls.clear()
            handle = self._module.register_forward_hook(record, with_kwargs=True, prepend=True)
            try:
                if next(outputs, calls) is calls:
                    return
            finally:
                handle.remove()
            yield from calls


def _copies(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone() for tensor in tensors)
