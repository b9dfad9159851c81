"""Blocks: the float network as a teacher, and the stretches of a network that can be taught one by one."""

import dataclasses

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.graph import CodeGen

from zeropoint.graph import edits as fx
from zeropoint.graph.operators import FAKE_QUANTIZE, TRANSPARENT
from zeropoint.graph.program import Program


def without_quantizers(program: Program) -> GraphModule:
    """The Program's graph with every quantizer giving back what it takes."""
    module = fx.copy(program.module)
    for node in [node for node in module.graph.nodes if node.target in FAKE_QUANTIZE]:
        node.replace_all_uses_with(node.args[0])
    fx.remove_unused(module)
    return module


def float_network(program: Program) -> GraphModule:
    """The float network that a quantized Program was made from, with the same nodes, as far as known."""
    return without_quantizers(dataclasses.replace(program, module=program.unfitted or program.module))


def block_ends(module: GraphModule) -> list[str]:
    """Inner nodes that everything after them is computed from: no shortcut leads past them."""
    done = Interpreter(module).user_to_last_uses
    live: set[Node] = set()
    ends = []
    for node in module.graph.nodes:
        from_inputs = node.op == "call_function" and any(
            source.op == "placeholder" or source in live for source in node.all_input_nodes
        )
        if node.op == "placeholder" or from_inputs:
            live.add(node)
        live -= set(done.get(node, ()))
        computed = from_inputs and fx.is_float(node) and node.target not in TRANSPARENT
        if computed and live == {node}:
            ends.append(node.name)
    return ends[:-1]  # the last one is the output


def stretch(module: GraphModule, entry: str | None, exits: list[str]) -> GraphModule:
    """The part that computes ``exits``, a list, from ``entry``, or from the inputs for None; shares tensors.

    ``entry`` is one of ``block_ends``, or raises: all exits have to be computed from it.
    """
    part = fx.copy(module)
    part.graph.set_codegen(CodeGen())  # of plain arguments and results
    nodes = {node.name: node for node in part.graph.nodes}
    part.graph.output_node().args = ([nodes[name] for name in exits],)
    if entry is not None:
        with part.graph.inserting_before(nodes[entry]):
            start = part.graph.placeholder("entry")
        start.meta = dict(nodes[entry].meta)
        nodes[entry].replace_all_uses_with(start)
        part.graph.eliminate_dead_code()
        for node in part.graph.find_nodes(op="placeholder"):
            if node is not start:
                part.graph.erase_node(node)
    fx.remove_unused(part)
    return part


def relative_error(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The squared error of each tensor relative to the square of what is wanted, mean over them."""
    total = torch.zeros(())
    for value, target in zip(found, wanted, strict=True):
        total = total + (value - target).square().sum() / target.square().sum().clamp(min=1e-30)
    return total / max(len(wanted), 1)
