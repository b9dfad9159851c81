"""AdaRound: whether each weight is rounded up or down is learned, block by block, from the float network.

Nagel et al. 2020 (arXiv 2004.10568), on the blocks of Li et al. 2021 ("BRECQ", arXiv 2102.05426), from what
the quantized network gives them, while random activations stay float, so that what is learned does not
depend on the calibration data's own rounding errors (Wei et al. 2022, "QDrop", arXiv 2203.05740).
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.data.batches import inputs_of
from zeropoint.data.held_out import EVERY
from zeropoint.graph import edits as fx
from zeropoint.graph.macs import work
from zeropoint.graph.moves import before_moves
from zeropoint.graph.operators import bias_of, weighted
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import Quantizer, Simulation, quantizers
from zeropoint.numerics.learned import fake_quantize_learned
from zeropoint.numerics.scheme import Scheme
from zeropoint.passes.blocks import block_ends, relative_error, stretch, without_quantizers
from zeropoint.passes.descent import BATCH, Descent, items_a_step
from zeropoint.passes.rows import Rows
from zeropoint.passes.softround import SoftWeight, rectified_sigmoid, regularizer, soft_weight
from zeropoint.progress import track

MEMORY = 1 << 30  # bytes of block inputs and outputs held in memory; the rest goes to files
ITEMS = 1024  # items to learn from, at most
STEPS = 1000  # per block, at most
WORK = 1 << 40  # multiply-accumulates of the float network in all steps
LEAST = 100  # steps per block at least, however large the network
BETA = (20.0, 2.0)  # from the end of the warm-up to the last step
WARM_UP = 0.2  # share of the steps
PULL = 1.0  # weight of the regulariser: equal to the block's first error if all weights are undecided
FLOAT = 0.5  # share of the activations that stay float: Wei et al. 2022, section 4
REACH = 3.0  # how far Adam moves a V in all steps, at most; its limits are 4.8 apart
# What Adam moves a value by in a step, at first: a step size or a bias, in its own size.
STEP_RATE = 0.003
BIAS_RATE = 0.003


def adaround(start: Program, unfitted: Program, calibration: Iterable[Any], seed: int = 0) -> Program:
    """``start`` with weights rounded so that every block comes near to the float network's.

    Biases and step sizes of activations are learned beside them. ``unfitted`` has the same quantizers around
    the weights of the float network. A block that comes no nearer on items held out stays as it is; all do
    where there are too few to hold some out, or the batch size is fixed. Reads ITEMS of ``calibration`` at
    most, up to the first of another shape; beyond MEMORY they take room on disk, where temporary files go.
    """
    given = wanted = _items(calibration) if start.dynamic_batch else []
    is_held = torch.arange(len(given[0]) if given else 0) % EVERY == EVERY - 1
    if not is_held.any():
        return start
    module, teacher = fx.copy(start.module), without_quantizers(unfitted)
    steps = max(LEAST, min(STEPS, WORK // (work(unfitted) * BATCH)))
    generator = torch.Generator().manual_seed(seed)
    blocks = _blocks(module, teacher)
    for number, (entry, exits) in enumerate(blocks, 1):
        block = stretch(module, entry, exits)
        size = items_a_step(block)
        wanted = _outputs(stretch(teacher, entry, exits), wanted, size)
        soft = _Soft(block, module, teacher, generator)
        if soft.weights:
            lesson = _Lesson(given, wanted, is_held, size)
            before = lesson.held_out_error(Simulation(block))
            _learn(soft, lesson, before, steps, f"rounding block {number} of {len(blocks)}")
            candidate = fx.copy(block)
            soft.put(candidate)
            if lesson.held_out_error(Simulation(candidate)) < before:  # which NaN is not
                soft.put(module)
                block = candidate
        given = _outputs(block, given, size)
    module.recompile()
    return dataclasses.replace(start, module=module)


def _items(calibration: Iterable[Any]) -> list[Rows]:
    """The inputs of the calibration data, one after another."""
    items: list[Rows] = []
    for inputs in inputs_of(calibration, BATCH):
        items = items or [_rows(ITEMS, tensor) for tensor in inputs]
        if any(rows.shape[1:] != tensor.shape[1:] for rows, tensor in zip(items, inputs, strict=True)):
            break
        for rows, tensor in zip(items, inputs, strict=True):
            rows.append(tensor)
        if len(items[0]) == ITEMS:
            break
    return items


def _rows(most: int, like: Tensor) -> Rows:
    """Room for what goes from one block to the next: of two networks, each before and after a block."""
    row_bytes = math.prod(like.shape[1:]) * like.element_size()
    return Rows(most, like, spilled=4 * most * row_bytes > MEMORY)


def _blocks(module: GraphModule, teacher: GraphModule) -> list[tuple[str | None, list[str]]]:
    """The value that enters each block, None for the network's inputs, and those that leave it.

    Blocks are as many as they can be with a quantized weight in each; what follows the weights of one, up to
    those of the next, belongs to it.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    items = _leading(module.graph.find_nodes(op="placeholder")[0])
    ends = {name for name in block_ends(teacher) if _leading(nodes[name]) == items}
    weights = {quantizer.node for quantizer in quantizers(module) if quantizer.is_weight}
    cuts: list[str] = []
    latest, has_weight = "", False
    for node in module.graph.nodes:
        if not weights.isdisjoint(node.all_input_nodes):
            if has_weight and latest:
                cuts.append(latest)
            latest, has_weight = "", True
        if node.name in ends:
            latest = node.name
    results = module.graph.output_node().all_input_nodes
    outputs = [node.name for node in results if fx.is_float(node) and _leading(node) == items]
    blocks = zip([None, *cuts], [*([cut] for cut in cuts), outputs], strict=True)
    return [(entry, exits) for entry, exits in blocks if exits]


def _leading(node: Node) -> str:
    """The name of a tensor's first size."""
    return str(node.meta["val"].shape[:1])


def _outputs(block: GraphModule, inputs: list[Rows], size: int) -> list[Rows]:
    """The outputs of a block for all items."""
    outputs: list[Rows] = []
    for chosen in torch.arange(len(inputs[0])).split(size):
        with torch.no_grad():
            values = Simulation(block).run(*(rows[chosen] for rows in inputs))
        outputs = outputs or [_rows(len(inputs[0]), value) for value in values]
        for rows, value in zip(outputs, values, strict=True):
            rows.append(value)
    return outputs


@dataclasses.dataclass(frozen=True)
class _Lesson:
    """What enters a block in the quantized network, what should leave it, and the number of items a step."""

    inputs: list[Rows]
    wanted: list[Rows]
    is_held: Tensor
    size: int

    def error(self, run: Interpreter, chosen: Tensor) -> Tensor:
        """Of the block as ``run`` computes it, on these items."""
        outputs = run.run(*(rows[chosen] for rows in self.inputs))
        return relative_error(outputs, [rows[chosen] for rows in self.wanted])

    def held_out_error(self, run: Interpreter) -> float:
        """The mean over the items that are not learned from."""
        parts = self.is_held.nonzero()[:, 0].split(self.size)
        with torch.no_grad():
            return sum(float(self.error(run, part)) * len(part) for part in parts) / int(self.is_held.sum())


def _learn(soft: "_Soft", lesson: _Lesson, error: float, steps: int, message: str) -> None:
    """Gradient steps: Nagel et al. 2020, eq. 21 and 25, with errors relative to the ``error`` at first."""
    fits = (~lesson.is_held).nonzero()[:, 0]
    descent = Descent(soft.parameter_groups(steps), steps)
    for step in track(range(steps), message):
        chosen = fits[torch.randperm(len(fits), generator=soft.generator)[: lesson.size]]
        loss = lesson.error(soft, chosen) / max(error, 1e-30)
        if (beta := _annealed(step / steps)) is not None:
            loss = loss + PULL * soft.undecided(beta)
        if not descent.step(loss):
            break


def _annealed(done: float) -> float | None:
    """Beta when this share of the steps is done, falling by a cosine; None while warming up."""
    if done < WARM_UP:
        return None
    first, last = BETA
    return last + (first - last) * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


class _Soft(Interpreter):
    """Runs a block with what is learned in place of its weights, biases and quantizers.

    Each by the name of its node. What other blocks use too is not learned.
    """

    def __init__(
        self, block: GraphModule, module: GraphModule, teacher: GraphModule, generator: torch.Generator
    ) -> None:
        super().__init__(block)
        self.generator = generator
        self.weights: dict[str, SoftWeight] = {}
        self.biases: dict[str, Tensor] = {}
        self.activations: dict[str, tuple[Quantizer, Tensor]] = {}
        users = {node.name: len(node.users) for node in module.graph.nodes}
        scales: dict[tuple[Node, Scheme], Tensor] = {}
        for quantizer in quantizers(block):
            node, source = quantizer.node, quantizer.source
            if not quantizer.is_weight:  # one step size for all quantizers of a value, moved or not
                scale = quantizer.scale.clone().requires_grad_()
                scale = scales.setdefault((before_moves(node), quantizer.scheme), scale)
                self.activations[node.name] = quantizer, scale
            elif all(len(part.users) == users[part.name] for part in (node, source)):
                origin = fx.tensor_of(teacher, source)
                self.weights[node.name] = soft_weight(fx.tensor_of(block, source), quantizer, origin)
        for layer in block.graph.nodes:
            description = weighted(layer)
            bias = bias_of(layer, description) if description else None
            if bias is not None and bias.op == "get_attr" and users[bias.name] == 1:
                self.biases[bias.name] = fx.tensor_of(block, bias).clone().requires_grad_()

    def run_node(self, n: Node) -> Any:
        """A node's value; each element of a quantized activation stays float by chance."""
        if n.name in self.weights:
            return self.weights[n.name].soft
        if n.name in self.biases:
            return self.biases[n.name]
        if n.name not in self.activations:
            return super().run_node(n)
        quantizer, scale = self.activations[n.name]
        value, ends = self.env[quantizer.source], (quantizer.scheme.qmin, quantizer.scheme.qmax)
        # The factor for gradients is 1: Adam does not see the size of a gradient.
        rounded = fake_quantize_learned(value, scale, quantizer.zero_point.float(), None, *ends, 1.0)
        return torch.where(torch.rand(value.shape, generator=self.generator) < FLOAT, value, rounded)

    def undecided(self, beta: float) -> Tensor:
        """The regulariser, mean over the weights."""
        hs = [rectified_sigmoid(weight.v) for weight in self.weights.values()]
        return sum((regularizer(h, beta) for h in hs), torch.zeros(())) / sum(h.numel() for h in hs)

    def parameter_groups(self, steps: int) -> list[dict[str, Any]]:
        """For Adam, whose rates fall by half a cosine: to half of the first one in the mean."""
        vs = [weight.v for weight in self.weights.values()]
        groups: list[dict[str, Any]] = [{"params": vs, "lr": 2 * REACH / steps}]
        scales = {id(scale): scale for _, scale in self.activations.values()}
        for tensors, rate in ((self.biases, BIAS_RATE), (scales, STEP_RATE)):
            for tensor in tensors.values():
                size = float(tensor.detach().abs().mean())
                groups.append({"params": [tensor], "lr": max(rate * size, 1e-12)})
        return groups

    def put(self, module: GraphModule) -> None:
        """Writes what was learned into a graph with the block in it: weights on their grids."""
        nodes = {node.name: node for node in module.graph.nodes}
        for weight in self.weights.values():
            fx.set_tensor(module, str(weight.quantizer.source.target), weight.hard, trainable=True)
        for name, bias in self.biases.items():
            fx.set_tensor(module, str(nodes[name].target), bias.detach(), trainable=True)
        for name, (_, scale) in self.activations.items():
            fx.replace_argument(nodes[name], 1, float(scale.detach().abs().clamp(min=1e-8)))
