"""Parity: whether an engine computes what the simulation of the same Program does, or where it differs."""

import dataclasses

import torch
from torch import Tensor
from torch.fx import Node

from zeropoint import engines
from zeropoint.data.nested import Leaf
from zeropoint.errors import InputError
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.fidelity import Fidelity, FidelityMeter
from zeropoint.measure.results import Parity
from zeropoint.measure.simulate import exceeding
from zeropoint.torch_private.trees import tree_leaves

MAX_SQNR_LOSS_DB = 0.5
MIN_AGREEMENT = 0.995
ROUNDING_FLOOR_DB = 60.0
"""Above this SQNR only the order of float additions is left to differ, and no int8 network comes near."""


def judge(engine: Fidelity, simulation: Fidelity, between: Fidelity) -> Parity:
    """Both fidelities are to float32; ``between`` is the engine's to the simulation.

    An engine that rounds less often than the simulation, and so is closer to float32, may differ from it.
    """
    close = engine.sqnr_db >= min(simulation.sqnr_db, ROUNDING_FLOOR_DB) - MAX_SQNR_LOSS_DB
    closer = engine.sqnr_db > simulation.sqnr_db + MAX_SQNR_LOSS_DB
    agree = closer or between.agreement is None or between.agreement >= MIN_AGREEMENT
    return Parity(
        engine.sqnr_db, simulation.sqnr_db, between.agreement, ok=close and agree, close=bool(close)
    )


def explained(parity: Parity, program: Program, engine: str, inputs: tuple[Tensor, ...]) -> Parity:
    """A ``parity`` that failed, with its cause if it is known, else with the operator that differs."""
    here = engines.computes_as(engine)
    layers = [fx.module_name(layer) for layer in exceeding(program, here.name)]
    if not layers:
        return dataclasses.replace(parity, operator=first_difference(program, engine, inputs))
    number = f"{layers[0]} and {len(layers) - 1} more" if len(layers) > 1 else layers[0]
    cause = (
        f"int8 results overflow on this processor, {here.words}, in layers with large neighbouring weights:"
        f" {number}; quantize with --processor {here.name}, or any for all processors"
    )
    return dataclasses.replace(parity, cause=cause)


def first_difference(program: Program, engine: str, inputs: tuple[Tensor, ...]) -> str | None:
    """The operator after which the engine differs from the simulation the most, as ``module (operator)``.

    Every quantized activation is made an output, and the steepest fall of the engine's SQNR against the
    simulation, in the order of the graph, names the operator. None if the engine cannot run that graph.
    """
    module = fx.copy(program.module)
    watched = [quantizer for quantizer in quantizers(module) if not quantizer.is_weight]
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    results = [leaf for leaf in tree_leaves(output.args[0]) if isinstance(leaf, Node)]
    output.args = ((*(quantizer.node for quantizer in watched), *results),)
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    count = len(watched) + len(results)
    probe = dataclasses.replace(
        program,
        module=module,
        signature=dataclasses.replace(program.signature, outputs=tuple(map(Leaf, range(count)))),
        batch=dataclasses.replace(program.batch, outputs=(0,) * count),
    )
    try:
        actual = engines.compile(probe, engine, verify=False).flat(*inputs)
    except InputError:
        return None
    sources: list[Node] = [*(quantizer.source for quantizer in watched), *results]
    lowest, steepest, culprit = ROUNDING_FLOOR_DB, 0.0, None
    for source, expected, got in zip(sources, probe.flat(*inputs), actual, strict=True):
        if expected.shape != got.shape:
            return None
        meter = FidelityMeter()
        meter.add([expected], [got])
        sqnr = meter.result().sqnr_db
        if lowest - sqnr > steepest:
            steepest, culprit = lowest - sqnr, source
        lowest = min(lowest, sqnr)
    return None if culprit is None else f"{fx.module_name(culprit)} ({culprit.target})"
