"""Lowering to ``.pte``: quantize/dequantize pairs, which ExecuTorch's partitioner gives to XNNPACK."""

import dataclasses
import json
from pathlib import Path

from zeropoint.engines import fixed
from zeropoint.engines.engine import PROCESSOR, SIGNATURE
from zeropoint.engines.executorch.rewrites import REWRITES, in_integers, with_run_time_ranges
from zeropoint.engines.executorch.run import INTEGERS, SEAL
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.rewrites import apply, tell
from zeropoint.engines.seal import seal
from zeropoint.files import atomic_write
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program, export
from zeropoint.passes.fold import fold_batch_norms


def lower(program: Program, path: Path) -> None:
    """Writes the ``.pte`` file, for the batch size of the example inputs."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    if program.method == "fp32":
        program = fold_batch_norms(program)
    program = dataclasses.replace(program, module=with_run_time_ranges(program.module))
    module = to_pairs(program)
    tell(apply(REWRITES, module))
    fx.remove_unused(module)
    exported = export(program, module, fixed=True)
    facts = {
        **fixed.facts(program),
        PROCESSOR: program.processor,
        SIGNATURE: program.signature.to_json(),
        INTEGERS: json.dumps([node.name for node in module.graph.nodes if in_integers(node)]),
    }
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=facts)
    buffer = edge.to_executorch().buffer
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer)
        seal([temporary], SEAL)
