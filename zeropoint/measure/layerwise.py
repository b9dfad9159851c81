"""Layer by layer: one streaming pass through the float and the quantized network, side by side.

What quantizing a layer alone does to the outputs is found to first order, for all layers at once: by the
chain rule it is the layer's error times the slope of the outputs, of which random projections give the mean
square (Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix", section 2).
"""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from zeropoint.data.batches import inputs_of, items_of
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.hidden import without_hidden
from zeropoint.graph.operators import (
    FAKE_QUANTIZE,
    TRANSPARENT,
    WEIGHTED,
    family,
    ungrouped,
)
from zeropoint.graph.program import Program, flat_tensors
from zeropoint.graph.quantizers import FAST, Quantizer, quantizers
from zeropoint.graph.sizes import check_inputs
from zeropoint.measure.simulate import OnProcessor, Overflowing, excess, overflowing
from zeropoint.numerics.ranges import Statistics
from zeropoint.passes.blocks import float_network
from zeropoint.passes.sensitivity import signs, slopes
from zeropoint.progress import track

TOGETHER = 8  # items that run at a time: the outputs of all layers are held for them
PROJECTIONS = 2  # for each batch; with 64 items a sensitivity is exact to 0.4 dB


@dataclass
class Seen:
    """Sums of squares over all items of what one operator with a quantized operand gives.

    ``signal``: of its float output; ``local``: of the error of quantizing this operator alone, with weights
    rounded to nearest: those that were fitted make up for what others do; ``accumulated``: of the error with
    everything before it quantized, too; ``at_outputs``: of what the former does to the network's outputs, to
    first order. ``operands``: what was seen of each activation that
    is quantized before it, by its quantizer, and ``channels``: the largest magnitude in each channel.
    ``pairs``: neighbouring weights that overflow on the processor that was asked about, if there are any.
    """

    node: Node
    quantizers: list[Quantizer]
    signal: float = 0.0
    local: float = 0.0
    accumulated: float = 0.0
    at_outputs: float = 0.0
    operands: dict[Node, Statistics] = field(default_factory=dict)
    channels: dict[Node, Tensor] = field(default_factory=dict)
    pairs: Overflowing | None = None

    @property
    def weight(self) -> Quantizer | None:
        """The quantizer of its weight, if it has one."""
        return next((one for one in self.quantizers if one.is_weight), None)


@dataclass(frozen=True)
class Layerwise:
    """What was ``seen``, in the order of the network, on ``items`` items.

    ``signal`` and ``noise``: sums of squares of the float network's outputs, and of the quantized one's
    error. ``float_weights``: by the name of the parameter.
    """

    seen: tuple[Seen, ...]
    items: int
    signal: float
    noise: float
    float_weights: dict[str, Tensor]


def layerwise(
    program: Program,
    data: Iterable[Any],
    items: int,
    *,
    sensitivity: bool = False,
    fitted: bool = False,
    processor: str = "",
    description: str = "looking at layers",
) -> Layerwise:
    """Runs the quantized ``program`` and its float network on the first ``items`` of ``data``.

    With a ``processor`` it is run with that one's arithmetic, which may overflow. ``fitted``: operators alone
    are quantized with the weights that the program has, and not with those that are nearest.

    Raises InputError if there is no data, or it does not fit.
    """
    reference = float_network(program)
    weights = {name: tensor.detach() for name, tensor in reference.named_parameters()}
    beyond = overflowing(program, processor)
    seen = {site.node.name: replace(site, pairs=beyond.get(site.node)) for site in _sites(program.module)}
    shown = functools.partial(without_hidden, program.signature.input_names)
    rounded = program.module if fitted else _with_weights(program.module, weights)
    float_run = _Float(reference, rounded, seen, sensitivity, shown)
    rows, signal, noise = 0, 0.0, 0.0
    for inputs in track(first_items(program, data, items), description):
        expected = float_run.on(inputs)
        quantized_run = _Quantized(program, processor, seen.keys(), float_run.compare)
        with torch.no_grad():
            outputs = _floats(shown(inputs, flat_tensors(quantized_run.run(*inputs))))
        for output, wanted in zip(outputs, expected, strict=True):
            signal += _square(wanted)
            noise += _square(output - wanted)
        rows += items_of(inputs)
    if not rows:
        raise InputError("there is no data to look at layers on; give at least one batch")
    return Layerwise(tuple(seen.values()), rows, signal, noise, weights)


def _with_weights(module: GraphModule, weights: dict[str, Tensor]) -> GraphModule:
    """The graph around other weights, of the same names."""
    module = fx.copy(module)
    for name, _ in list(module.named_parameters()):
        if name in weights:
            fx.set_tensor(module, name, weights[name])
    return module


def first_items(program: Program, data: Iterable[Any], items: int) -> list[tuple[Tensor, ...]]:
    """Batches of at most TOGETHER that hold the first ``items``; unchanged if the batch is fixed."""
    parts: list[tuple[Tensor, ...]] = []
    room = items
    for number, inputs in enumerate(inputs_of(data, TOGETHER if program.dynamic_batch else None)):
        check_inputs(program.module, inputs, f"batch {number}")
        size = items_of(inputs)
        if program.dynamic_batch:
            split = [torch.split(tensor[:room], TOGETHER) for tensor in inputs]
            parts += list(zip(*split, strict=True))
        else:
            parts.append(inputs)
        room -= size
        if room <= 0:
            break
    return parts


def _sites(module: GraphModule) -> list[Seen]:
    """The operators with a quantized operand, but for those that only move values."""
    by_node = {one.node: one for one in quantizers(module)}
    sites = []
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target in FAKE_QUANTIZE or node.target in TRANSPARENT:
            continue
        if ungrouped(node) is not node:  # it puts groups together
            continue
        operands = [ungrouped(operand) for operand in node.all_input_nodes]
        if any(operand.target in FAKE_QUANTIZE for operand in operands) and fx.is_float(node):
            sites.append(Seen(node, [by_node[one] for one in operands if one in by_node]))
    return sites


class _Float(Interpreter):
    """The float network, which at every site also computes the output of the quantized operator."""

    def __init__(
        self,
        reference: GraphModule,
        quantized: GraphModule,
        seen: dict[str, Seen],
        sensitivity: bool,
        shown: Callable[[tuple[Tensor, ...], Sequence[Tensor]], list[Tensor]],
    ) -> None:
        super().__init__(reference)
        self.extra_traceback = False  # an InputError's message stays as it is
        self.seen, self.sensitivity, self.shown = seen, sensitivity, shown
        self.names = {node.name: node for node in reference.graph.nodes if node.op != "get_attr"}
        self.quantized = {node.name: node for node in quantized.graph.nodes}
        self.constants = _constants(quantized)
        self.values: dict[str, Tensor] = {}
        self.errors: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def on(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Runs a batch, adds up what was seen, and gives the float outputs."""
        self.values, self.errors = {}, {}
        with torch.set_grad_enabled(self.sensitivity):
            outputs = _floats(self.shown(inputs, flat_tensors(self.run(*inputs))))
        if self.sensitivity:
            self._project(outputs, items_of(inputs))
        return [output.detach() for output in outputs]

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "get_attr" and isinstance(value, Tensor):
            return value.detach()
        if (site := self.seen.get(n.name)) is None:
            return value
        with torch.no_grad():
            for quantizer in site.quantizers:
                if not quantizer.is_weight:
                    self._observe(site, quantizer)
            node = self.quantized[n.name]
            result = self._compute(node)
            if site.pairs is not None:
                input = node.args[WEIGHTED[node.target].input]
                result -= excess(node, site.pairs, self._value(input), input.args[1:3], result)
            error = result - value.detach()
            site.signal += _square(value)
            site.local += _square(error)
        if self.sensitivity:
            value = value if value.requires_grad else value.detach().requires_grad_()
            self.errors[n.name] = error
        self.values[n.name] = value
        return value

    def _observe(self, site: Seen, quantizer: Quantizer) -> None:
        value = self._value(self.quantized[quantizer.source.name])
        site.operands.setdefault(quantizer.node, Statistics()).add(value, with_histogram=True)
        is_image = value.dim() == 4 or (family(site.node) or "").startswith("conv")
        axis = 1 if is_image and value.dim() > 2 else -1
        largest = value.detach().movedim(axis, 0).flatten(1).abs().amax(1)
        before = site.channels.get(quantizer.node)
        if before is None or len(before) == len(largest):
            site.channels[quantizer.node] = largest if before is None else torch.maximum(before, largest)

    def _value(self, node: Node) -> Any:
        """What a node of the quantized graph gives in the float network, quantizers computed again."""
        if node in self.constants:
            return self.constants[node]
        if node.name in self.names:
            return self.env[self.names[node.name]].detach()
        return self._compute(node)

    def _compute(self, node: Node) -> Any:
        args: Any = map_arg(node.args, self._value)
        kwargs: Any = map_arg(node.kwargs, self._value)
        target: Any = FAST.get(node.target, node.target)
        return target(*args, **kwargs)

    def _project(self, outputs: list[Tensor], items: int) -> None:
        values = {name: value for name, value in self.values.items() if value.requires_grad}
        reached = [output for output in outputs if output.requires_grad]
        for projection in range(PROJECTIONS if reached else 0):
            weights = [signs(output, self.generator) for output in reached]
            found = slopes(reached, weights, values, keep_graph=projection < PROJECTIONS - 1)
            for name, slope in found.items():
                products = (slope * self.errors[name]).double()
                apart = products.dim() and len(products) % items == 0
                sums = products.reshape(items if apart else 1, -1).sum(1)
                self.seen[name].at_outputs += _square(sums) / PROJECTIONS

    def compare(self, node: Node, value: Tensor) -> None:
        """Takes in what the quantized network gave at a site."""
        self.seen[node.name].accumulated += _square(value - self.values[node.name].detach())


class _Quantized(fx.Watching, OnProcessor):
    """Runs a quantized graph as a processor does, and shows what its sites give."""

    def __init__(
        self,
        program: Program,
        processor: str,
        names: Collection[str],
        show: Callable[[Node, Any], None],
    ) -> None:
        OnProcessor.__init__(self, program, processor)
        self.extra_traceback = False  # an InputError's message stays as it is
        self.names, self.show = set(names), show


def _constants(module: GraphModule) -> dict[Node, Any]:
    """What the nodes that hang on no input give: weights, quantized and as they are, biases."""
    known: dict[Node, Any] = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "get_attr":
                known[node] = fx.tensor_of(module, node)
                continue
            parts = node.all_input_nodes if node.op == "call_function" else []
            if parts and all(part in known for part in parts):
                args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*args, **kwargs)
    return known


def _floats(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [output for output in outputs if output.is_floating_point()]


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach())) ** 2  # a fifth of the time of a copy in float64


def decibels(signal: float, noise: float) -> float | None:
    """An SQNR; None if it is infinite or there is no signal."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
