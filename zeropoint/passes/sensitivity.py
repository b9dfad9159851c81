"""Sensitivity: how much noise in a value adds to the noise of the network's outputs, to first order.

By the chain rule small noise reaches the outputs times their slopes, of which random projections of the
outputs give the mean square (Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix",
section 2): one backward pass gives those of all values at once.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.data.batches import inputs_of, items_of
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.macs import work
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.memory import keeping_freed
from zeropoint.passes.descent import kept_bytes

# Items that are looked at, at most. With 32 and with 16, SQNR is the same to 0.01 dB: 14 networks of random
# weights, and two trained ones at W8A8, W4A8 and W4A4 (AMD EPYC with VNNI, December 2026).
ITEMS = 16
LEAST = 4  # items that are looked at least, however large the network
WORK = 1 << 36  # multiply-accumulates of both passes over the network, at most
BOTH = 3  # times those of the forward pass
MEMORY = 1 << 31  # bytes of values that are kept for the backward pass, at most about


@keeping_freed()
def sensitivities(
    program: Program,
    axes: Mapping[str, int],
    calibration: Iterable[Any],
    items: int | None = None,
) -> dict[str, Tensor]:
    """By the name of each node in ``axes``, what noise in each channel along its axis does: (channels,).

    If every element of a channel has noise of variance v, independent of the others, it adds v times this
    number to the noise of the outputs, each in shares of its own mean square. Values that no output depends
    on smoothly are left out; all are, where the network has an operator without a derivative, or the smallest
    batch takes more than MEMORY. Looks at so many ``items``, and the rest of their batch; None for as many as
    ITEMS and WORK allow.
    """

    def by_channel(name: str, _: Tensor, slope: Tensor) -> Tensor:
        others = [axis for axis in range(slope.dim()) if axis != axes[name] % slope.dim()]
        return slope.square().sum(others, dtype=torch.float64)

    return mean_of_slopes(program, axes.keys(), calibration, by_channel, items)


def mean_of_slopes(
    program: Program,
    names: Collection[str],
    calibration: Iterable[Any],
    of: Callable[[str, Tensor, Tensor], Tensor],
    items: int | None = None,
) -> dict[str, Tensor]:
    """By the name of a node, the mean over batches of ``of(name, value, slope)``, as ``sensitivities`` looks.

    ``slope`` is that of a random projection of the outputs, each relative to its size, along the value.
    """
    if items is None:
        items = max(LEAST, min(ITEMS, WORK // (BOTH * work(program))))
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    seen, batches, size = 0, 0, min(items, MEMORY // _kept(program))
    if not size:
        return {}
    for inputs in inputs_of(calibration, size if program.dynamic_batch else None):
        network = _Sloped(program.module, names)
        for name, slope in _slopes(program.signature.input_names, network, inputs, generator).items():
            found[name] = found.get(name, 0.0) + of(name, network.values[name].detach(), slope)
        seen, batches = seen + items_of(inputs), batches + 1
        if seen >= items:
            break
    return {name: total / batches for name, total in found.items()}


def _kept(program: Program) -> int:
    """The bytes of all values of an item, or of the batch where its size is fixed."""
    rows = 1 if program.dynamic_batch else items_of(program.example_inputs)
    return max(rows * kept_bytes(program.module), 1)


def _slopes(
    names: Sequence[str], network: "_Sloped", inputs: tuple[Tensor, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """The slope of a random projection of the outputs, each relative to its size, along each value."""
    with torch.enable_grad():
        try:
            outputs = without_hidden(names, inputs, flat_tensors(network.run(*inputs)))
            outputs = [output for output in outputs if output.requires_grad]
            if not outputs:
                return {}
            weights = [_share(output.detach()) * signs(output, generator) for output in outputs]
            found = slopes(outputs, weights, network.values)
        except RuntimeError:
            return {}
    # A slope that is not finite, as of a square root at 0, says nothing.
    return {name: slope.nan_to_num(0.0, 0.0, 0.0) for name, slope in found.items()}


def _share(output: Tensor) -> Tensor:
    """One over the size of an output; 0 for what is not finite, such as masked scores."""
    is_finite = output.isfinite()
    size = torch.linalg.vector_norm(torch.where(is_finite, output, 0.0)).clamp(min=1e-30)
    share: Tensor = is_finite / size
    return share


def signs(output: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs, one for each element of an output, of its dtype."""
    return torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1


def slopes(
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    values: Mapping[str, Tensor],
    *,
    keep_graph: bool = False,
) -> dict[str, Tensor]:
    """The slope of the sum of the weighted outputs along each value that it depends on, by name."""
    found = torch.autograd.grad(
        outputs, list(values.values()), weights, retain_graph=keep_graph, allow_unused=True
    )
    return {name: slope for name, slope in zip(values, found, strict=True) if slope is not None}


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
