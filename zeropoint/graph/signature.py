"""Signature: how a model is called and what it gives back, over the flat tensors of a captured graph."""

import functools
import inspect
import json
import keyword
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from zeropoint.data.batches import LABELS, Around, Batch, FlatBatch, Loader, check, reading, split
from zeropoint.data.loaders import Loaders
from zeropoint.data.nested import Leaf, constants, flatten, from_json, leaf_paths, plain, restore, to_json
from zeropoint.errors import InputError

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@dataclass(frozen=True, eq=False)
class Signature:
    """The call that a model was captured with, and the structure of its outputs.

    ``parameters``: name and kind of each parameter of ``forward``. ``inputs``: the arguments by parameter,
    and ``outputs``: what the model gives back, each with a Leaf in the place of every tensor. What is no
    tensor is a constant of the graph: a call may leave it out, and must not change it. ``keywords``: the
    parameters that the example gave by name. ``defaults``: the values of those that it left out.

    >>> program.signature.input_names, program.signature.output_names
    (('input',), ('output',))
    """

    parameters: tuple[tuple[str, str], ...]
    inputs: dict[str, Any]
    outputs: Any
    keywords: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def input_names(self) -> tuple[str, ...]:
        """A name for each input tensor, made from its path in the call, as in ``states_0``."""
        return _names(self._paths, "input")

    @functools.cached_property
    def output_names(self) -> tuple[str, ...]:
        """A name for each output tensor: its key, or ``output``."""
        paths = leaf_paths(self.outputs)
        named = [f"output.{path}" if path[:1].isdigit() else path for path in paths]
        return _names(named, "output", taken=self.input_names)

    @functools.cached_property
    def _paths(self) -> list[str]:
        return leaf_paths(self._spread(self.inputs))

    @functools.cached_property
    def _forward(self) -> inspect.Signature:
        made = []
        for name, kind in self.parameters:
            default = inspect.Parameter.empty if kind.startswith("VAR") else None
            made.append(inspect.Parameter(name, getattr(inspect.Parameter, kind), default=default))
        return inspect.Signature(made)

    @functools.cached_property
    def _is_plain(self) -> bool:
        """Whether the call is of tensors in order, so that nothing has to be taken apart."""
        return all(isinstance(value, Leaf) for value in self.inputs.values()) and not any(
            kind in ("VAR_POSITIONAL", "KEYWORD_ONLY", "VAR_KEYWORD")
            for name, kind in self.parameters
            if name in self.inputs
        )

    def flat(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The tensors of a call, in the order of the graph's inputs.

        Raises InputError for a tensor that is missing or that the model was not captured with, and for
        another value of a constant.
        """
        alike = self._is_plain and not kwargs and len(args) == len(self.inputs)
        if alike and all(isinstance(value, Tensor) for value in args):
            return tuple(args)
        try:
            given = self._spread(self._forward.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise InputError(f"the model's inputs are {', '.join(self._paths)}: {error}") from None
        tensors, _ = flatten(given)
        others = constants(given)
        if wrong := [path for path in self._paths if others.get(path) is not None]:
            raise InputError(f"{wrong[0]} is a {type(others[wrong[0]]).__name__}; give a tensor")
        if missing := [path for path in self._paths if path not in tensors]:
            raise InputError(f"the model takes {', '.join(self._paths)}; {', '.join(missing)} is missing")
        if unknown := [path for path in tensors if path not in self._paths]:
            raise InputError(
                f"the model was captured without {', '.join(unknown)}; leave it out, or capture with it"
            )
        held = self.defaults | constants(self._spread(self.inputs))
        for path, value in others.items():
            if value is not None and not (path in held and _equal(value, held[path])):
                had = held.get(path)
                raise InputError(
                    f"the model was captured with {path} = {had!r}; capture it again with {value!r}"
                )
        return tuple(tensors[path] for path in self._paths)

    def call(self, tensors: Sequence[Any]) -> Call:
        """The arguments of the model's own ``forward`` with these tensors in them."""
        return self._called(restore(self.inputs, tensors))

    def batch_of(self, tensors: Sequence[Any]) -> Any:
        """What a loader yields for these tensors: positional arguments, or a dict by parameter."""
        args, kwargs = self.call(tensors)
        return restore(self.inputs, tensors) if kwargs else args

    def plain_call(self) -> Call:
        """The arguments as tuples, lists and dicts of leaves, without the constants."""
        return self._called(plain(self.inputs, keep=False))

    def _called(self, arguments: dict[str, Any]) -> Call:
        """Arguments by parameter as positional and keyword ones, as the example gave them."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        kinds = dict(self.parameters)
        for name, value in arguments.items():
            if kinds[name] == "VAR_POSITIONAL":
                args.extend(value)
            elif kinds[name] == "VAR_KEYWORD":
                kwargs |= value
            elif name in self.keywords or kinds[name] == "KEYWORD_ONLY":
                kwargs[name] = value
            else:
                args.append(value)
        return tuple(args), kwargs

    def nested(self, tensors: Sequence[Any]) -> Any:
        """Output tensors in the structure that the model gives."""
        return restore(self.outputs, tensors)

    def batch(self, batch: Batch) -> FlatBatch:
        """The input tensors of a batch, in the order of the graph's inputs, and its targets, None without.

        A batch is a tensor, a tuple of positional arguments, or a dict by parameter; a pair of one of these
        and the targets; or positional arguments and, last, the targets. In a dict ``labels``, ``label``,
        ``targets`` or ``target`` holds the targets, and what ``forward`` does not take is left out.

        Raises InputError for anything else.
        """
        if isinstance(batch, FlatBatch):
            return batch
        failed = None
        for args, kwargs, targets in self._readings(batch):
            try:
                return FlatBatch(self.flat(args, kwargs), targets)
            except InputError as error:
                failed = failed or error
        raise InputError(f"a batch does not fit the model: {failed}")

    def _readings(self, batch: Batch) -> Iterator[tuple[Sequence[Any], Mapping[str, Any], Any]]:
        """What a batch can mean: arguments and targets, the likeliest first."""
        if isinstance(batch, Mapping):
            key = next((key for key in LABELS if key in batch and key not in self.inputs), None)
            names = {name for name, _ in self.parameters} | set(self._spread(self.inputs))
            taken = {name: value for name, value in batch.items() if name in names and name != key}
            yield (), taken, None if key is None else batch[key]
        elif isinstance(batch, tuple | list) and batch:
            yield batch, {}, None
            if len(batch) == 2:
                first, targets = batch
                if isinstance(first, Mapping):
                    yield (), first, targets
                elif isinstance(first, tuple | list):
                    yield first, {}, targets
                yield (first,), {}, targets
            yield batch[:-1], {}, batch[-1]
        yield (batch,), {}, None

    def _spread(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, with those of ``**kwargs`` beside the others."""
        kinds = dict(self.parameters)
        found: dict[str, Any] = {}
        for name, value in arguments.items():
            if kinds.get(name) == "VAR_KEYWORD":
                found |= value
            else:
                found[name] = value
        return found

    def to_json(self) -> str:
        """The signature as text; ``from_text`` reads it."""
        inputs = {name: to_json(value) for name, value in self.inputs.items()}
        defaults = to_json(self.defaults)
        return json.dumps([self.parameters, inputs, to_json(self.outputs), self.keywords, defaults])


def from_text(text: str) -> Signature:
    """The signature that ``to_json`` wrote; a dataclass comes back as a record of its fields."""
    parameters, inputs, outputs, keywords, defaults = json.loads(text)
    kinds = tuple((str(name), str(kind)) for name, kind in parameters)
    arguments = {name: from_json(value) for name, value in inputs.items()}
    return Signature(kinds, arguments, from_json(outputs), tuple(keywords), from_json(defaults))


def positional(names: Sequence[str], outputs: Any) -> Signature:
    """The signature of a function of tensors in order."""
    kinds = tuple((name, "POSITIONAL_OR_KEYWORD") for name in names)
    return Signature(kinds, {name: Leaf(number) for number, name in enumerate(names)}, outputs)


def of_call(forward: Callable[..., Any], call: Call) -> tuple[Signature, tuple[Tensor, ...]]:
    """The signature of a call, its outputs unknown yet, and the call's tensors.

    Raises InputError for arguments that ``forward`` does not take.
    """
    try:
        bound = inspect.signature(forward).bind(*call[0], **call[1])
    except TypeError as error:
        raise InputError(f"the example does not fit the model's forward: {error}") from None
    kinds = tuple((name, one.kind.name) for name, one in bound.signature.parameters.items())
    tensors, inputs = flatten(dict(bound.arguments))
    left_out = {
        name: one.default
        for name, one in bound.signature.parameters.items()
        if name not in bound.arguments and one.default is not one.empty
    }
    return Signature(kinds, inputs, None, tuple(call[1]), left_out), tuple(tensors.values())


def call_of(model: nn.Module, batch: Batch) -> Call:
    """The call of a model that a batch of a loader stands for, targets left out."""
    parameters = inspect.signature(model.forward).parameters
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Mapping):
        batch = batch[0]
    if isinstance(batch, Tensor | tuple | list):
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        most = sum(one.kind in positional for one in parameters.values())
        has_targets = isinstance(batch, tuple | list) and len(batch) == most + 1
        return split(batch, most if has_targets else None).inputs, {}
    if not isinstance(batch, Mapping):
        return (batch,), {}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    taken = {
        name: value
        for name, value in batch.items()
        if name not in LABELS and (name in parameters or (takes_any and isinstance(value, Tensor)))
    }
    return ((), taken) if taken else ((batch,), {})


def flattened(loader: Loader, signature: Signature, name: str = "the loader") -> Loader:
    """The batches of a loader taken apart; raises InputError, about ``name``, if it cannot be read again."""
    check(loader, name)
    return Flattened(loader, signature, name)


def flat_loaders(loaders: Loaders, signature: Signature) -> Loaders:
    """The parts of a data set, each with its batches taken apart."""
    parts = {**loaders.parts(), "evaluation": loaders.evaluation}
    read: Any = {
        name: flattened(part, signature, f"the {name} data")
        for name, part in parts.items()
        if part is not None
    }
    return replace(loaders, **read)


@dataclass(frozen=True)
class Flattened(Around):
    """The batches of a ``loader``, taken apart as a model of this ``signature`` is called."""

    signature: Signature
    name: str = "the loader"

    def __iter__(self) -> Iterator[FlatBatch]:
        return map(self.signature.batch, reading(self.loader, self.name))

    def __length_hint__(self) -> int:
        return operator.length_hint(self.loader)


def _names(paths: Sequence[str], empty: str, taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Identifiers of paths, none twice or ``taken``; ``empty`` is that of an empty path."""
    names = list(taken)
    for path in paths:
        name = re.sub(r"\W|^(?=\d)", "_", path or empty)
        name += "_" if keyword.iskeyword(name) else ""
        while name in names:
            name += "_"
        names.append(name)
    return tuple(names[len(taken) :])


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # objects may compare as they like
        return False
