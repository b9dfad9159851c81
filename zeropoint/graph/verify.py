"""Verify: whether a captured graph computes what the model does, and the first module where they differ."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from zeropoint.errors import InputError, first_line
from zeropoint.graph import edits as fx
from zeropoint.graph.flat import FlatModel
from zeropoint.torch_private.trees import tree_leaves

# Of an output, as SQNR. Other orders of float32 sums differ by 100 dB and more; what is lost is far below.
LEAST_DB = 60.0
SAME = 0.99  # share of integers or booleans that are equal: two logits may be as good as equal


@dataclass(frozen=True)
class Sample:
    """Inputs of a model and what it gives for them."""

    inputs: tuple[Tensor, ...]
    outputs: list[Tensor]


def second_sample(model: FlatModel, inputs: tuple[Tensor, ...]) -> Sample | None:
    """The values of the example in another order; None if the model fails on them."""
    other = reordered(inputs)
    try:
        return Sample(other, outputs_of(model, other))
    except Exception:  # whatever the user's code raises
        return None


def check_capture(model: FlatModel, module: GraphModule, example: Sample, second: Sample | None) -> None:
    """Compares a captured graph with what the model in eval mode gave, for the example and a second sample.

    Random numbers are drawn from the same seed by both.

    Raises InputError where an output differs by more than rounding, with the first module that does.
    """
    for sample, name in ((example, "the example"), (second, "a second sample")):
        if sample is None:
            continue
        try:
            found = _outputs(module, sample.inputs)
        except Exception as error:
            raise InputError(f"the captured model fails on {name}: {first_line(error)}") from error
        if not same(sample.outputs, found):
            where = _first_difference(model, module, sample.inputs)
            raise InputError(
                f"the captured model computes something else than the model on {name}{where};"
                f" {_cause(model, sample.inputs)}"
            )


def same(wanted: list[Tensor], found: list[Tensor]) -> bool:
    """Whether tensors are equal but for rounding: shapes, NaN, infinities, and LEAST_DB for the others."""
    return len(wanted) == len(found) and all(map(_same, wanted, found))


def _same(wanted: Tensor, found: Tensor) -> bool:
    if wanted.shape != found.shape or wanted.is_floating_point() != found.is_floating_point():
        return False
    if not wanted.is_floating_point():
        return not wanted.numel() or float((wanted == found).float().mean()) >= SAME
    a, b = wanted.double(), found.double()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(
        a[~finite].nan_to_num(), b[~finite].nan_to_num()
    ):
        return False
    noise, signal = (a - b)[finite].square().sum(), a[finite].square().sum()
    return bool(noise <= signal * 10 ** (-LEAST_DB / 10) or noise < 1e-12 * a.numel())


def _outputs(run: Callable[..., Any], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        leaves = tree_leaves(run(*(tensor.clone() for tensor in inputs)))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The output tensors of a model, which may write into copies of the inputs and of its buffers."""
    return _outputs(lambda *tensors: _stateless(model, tensors), inputs)


def _stateless(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """What the model gives, with copies of its buffers to write into."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return torch.func.functional_call(model, buffers, inputs)


def reordered(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same values in another order: floats any, and whole rows of tokens, indices and masks."""
    generator = torch.Generator().manual_seed(0)

    def change(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.roll(1, 0) if tensor.dim() else tensor
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)

    return tuple(map(change, inputs))


def _first_difference(model: FlatModel, module: GraphModule, inputs: tuple[Tensor, ...]) -> str:
    """In words, the first of the model's modules whose output differs from that of the captured graph."""
    given: dict[str, Tensor] = {}
    hooks = []
    for name, part in model.model.named_modules():

        def keep(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            first = next((x for x in tree_leaves(output) if isinstance(x, Tensor)), None)
            if name and first is not None and not first.is_nested:
                given.setdefault(name, first.detach())

        hooks.append(part.register_forward_hook(keep))
    try:
        outputs_of(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    last: dict[str, str] = {}
    for node in module.graph.nodes:
        for path in _modules(node):
            last[path] = node.name
    values: dict[str, Tensor] = {}

    def show(node: Node, value: Any) -> None:
        if isinstance(value, Tensor):
            values[node.name] = value

    _outputs(fx.Watching(module, last.values(), show).run, inputs)
    for name, tensor in given.items():
        found = values.get(last.get(name, ""))
        if found is not None and found.shape == tensor.shape and not _same(tensor, found):
            return f", first at {name} ({type(model.model.get_submodule(name)).__name__})"
    return ""


def _modules(node: Node) -> list[str]:
    """The names of the modules that a node is in, from outside to inside."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]


def _cause(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """What is known to make a capture differ, if it is the case here."""
    if is_random(model, inputs):
        return "it gives other outputs at every call: take random numbers and state out of forward"
    return "its forward does something that torch.export does not see; export it by hand and compare"


def is_random(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a model gives other outputs at every call."""
    return not same(*(_unseeded(model, inputs) for _ in range(2)))


def _unseeded(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        leaves = tree_leaves(_stateless(model, tuple(t.clone() for t in inputs)))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
