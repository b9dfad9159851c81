"""Sensitivity: how much noise in a value adds to the noise of the network's outputs, to first order.

By the chain rule small noise reaches the outputs times their slopes, of which random projections of the
outputs give the mean square (Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix",
section 2): one backward pass gives those of all values at once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.data.batches import inputs_of, items_of
from zeropoint.graph.macs import work
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.memory import keeping_freed
from zeropoint.passes.descent import items_a_step

ITEMS = 32  # items that are looked at, at most
LEAST = 4  # items that are looked at least, however large the network
WORK = 1 << 36  # multiply-accumulates of both passes over the network, at most
BOTH = 3  # times those of the forward pass


@keeping_freed()
def sensitivities(
    program: Program,
    axes: Mapping[str, int],
    calibration: Iterable[Any],
    items: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """By the name of each node in ``axes``, what noise in each channel along its axis does: (channels,).

    If every element of a channel has noise of variance v, independent of the others, it adds v times this
    number to the noise of the outputs, each in shares of its own mean square. Values that no output depends
    on smoothly are left out; all are, where the network has an operator without a derivative. Looks at so
    many ``items``, and the rest of their batch; None for as many as ITEMS and WORK allow.
    """
    if items is None:
        items = max(LEAST, min(ITEMS, WORK // (BOTH * work(program))))
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    seen, batches, size = 0, 0, min(items, items_a_step(program.module))
    for inputs in inputs_of(calibration, size if program.dynamic_batch else None):
        for name, slope in _slopes(program, axes.keys(), inputs, generator).items():
            squares = slope.square().movedim(axes[name], 0).flatten(1).sum(1, dtype=torch.float64)
            found[name] = found.get(name, 0.0) + squares
        seen, batches = seen + items_of(inputs), batches + 1
        if seen >= items:
            break
    return {name: squares / batches for name, squares in found.items()}


def _slopes(
    program: Program, names: Iterable[str], inputs: tuple[Tensor, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """The slope of a random projection of the outputs, each relative to its size, along each value."""
    network = _Sloped(program.module, names)
    with torch.enable_grad():
        try:
            outputs = [output for output in flat_tensors(network.run(*inputs)) if output.requires_grad]
            if not outputs:
                return {}
            signs = [torch.randint(0, 2, one.shape, generator=generator).to(one) * 2 - 1 for one in outputs]
            sizes = [torch.linalg.vector_norm(one.detach()).clamp(min=1e-30) for one in outputs]
            signs = [sign / size for sign, size in zip(signs, sizes, strict=True)]
            slopes = torch.autograd.grad(outputs, list(network.values.values()), signs, allow_unused=True)
        except RuntimeError:
            return {}
    by_name = zip(network.values, slopes, strict=True)
    return {name: slope for name, slope in by_name if slope is not None}


class _Sloped(Interpreter):
    """Runs a graph and keeps the named values, to differentiate by them."""

    def __init__(self, module: GraphModule, names: Iterable[str]) -> None:
        super().__init__(module)
        self.names, self.values = set(names), dict[str, Tensor]()

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "get_attr" and isinstance(value, Tensor):
            return value.detach()
        if n.name in self.names:
            value = value if value.requires_grad else value.detach().requires_grad_()
            self.values[n.name] = value
        return value
