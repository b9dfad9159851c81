"""Lowering to ``.pte``: quantize/dequantize pairs, which ExecuTorch's partitioner gives to XNNPACK."""

import dataclasses
import json
import warnings
from pathlib import Path

import torch

from zeropoint.engines import fixed
from zeropoint.engines.engine import PROCESSOR, SIGNATURE
from zeropoint.engines.executorch.rewrites import REWRITES, in_integers, with_run_time_ranges
from zeropoint.engines.executorch.run import INTEGERS, KERNELS, SEAL, TORCH, operators, runtime
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.rewrites import apply, tell
from zeropoint.engines.seal import seal
from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.graph import edits as fx
from zeropoint.graph.operators import WEIGHTED
from zeropoint.graph.program import Program, export
from zeropoint.passes.fold import fold_affine


def lower(program: Program, path: Path) -> None:
    """Writes the ``.pte`` file, for the batch size of the example inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own imports and what it calls in PyTorch
        _lower(program, path)


def _lower(program: Program, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    if program.method == "fp32":
        program = fold_affine(program)
    program = dataclasses.replace(program, module=with_run_time_ranges(program.module))
    module = to_pairs(program)
    tell(apply(REWRITES, module))
    fx.remove_unused(module)
    exported = export(program, module, fixed=True)
    layers = [node for node in module.graph.nodes if node.target in WEIGHTED]
    integers = [layer for layer in layers if in_integers(layer)]
    facts = {
        **fixed.facts(program),
        PROCESSOR: program.processor,
        SIGNATURE: program.signature.to_json(),
        INTEGERS: json.dumps([layer.name for layer in integers]),
        KERNELS: json.dumps({"int8": len(integers), "float": len(layers) - len(integers)}),
        TORCH: torch.__version__.partition("+")[0],
    }
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=facts)
    made = edge.to_executorch()
    needed = set(operators(made.executorch_program))
    if lacking := needed.difference(runtime()._get_operator_names()):
        names = " and ".join(sorted(lacking)).replace("::", ".")
        raise InputError(f"ExecuTorch has no {names}; take another engine")
    with atomic_write(path) as temporary:
        temporary.write_bytes(made.buffer)
        seal([temporary], SEAL)
