"""The kernels that ONNX Runtime runs an artefact with: which compute in integers, and how long each takes."""

import json
import re
import statistics
import tempfile
from pathlib import Path

from torch.fx import Node

from zeropoint.engines.onnxruntime.run import session
from zeropoint.graph.operators import FAKE_QUANTIZE_DYNAMIC, WEIGHTED
from zeropoint.graph.program import Program

_INTEGER = {
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger",
}  # fmt: skip


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, by its optimized graph."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = f"{folder}/optimized.onnx"
        session(path, optimized_model_filepath=optimized)
        kernels = onnx.load(optimized).graph.node
    found = {_origin(kernel.name) for kernel in kernels if kernel.op_type in _INTEGER}
    nodes = [node for node in program.module.graph.nodes if node.target in WEIGHTED]
    # The kernels of dynamic layers are numbered, by all operators of the graph in its order.
    dynamic = sorted(int(name.rpartition("_")[2]) for name in found if name.startswith("MatMulInteger_"))
    layers = [node.name for node in nodes if _is_dynamic(node)]
    in_order = set(layers) if len(dynamic) == len(layers) else set()
    return {node.name for node in nodes if not _is_dynamic(node)} & found | in_order


def layer_seconds(
    program: Program, path: Path, threads: int, calls: int
) -> list[tuple[float, tuple[str, ...]]]:
    """The median time of every kernel over the calls, and the name of the Program's node in the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        made = session(
            path,
            intra_op_num_threads=threads,
            inter_op_num_threads=1,
            enable_profiling=True,
            profile_file_prefix=f"{folder}/profile",
        )
        names = [value.name for value in made.get_inputs()]
        feed = {name: value.numpy() for name, value in zip(names, program.example_inputs, strict=True)}
        for _ in range(calls):
            made.run(None, feed)
        events = json.loads(Path(made.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] * 1e-6)
    return [(statistics.median(times), (_origin(name),)) for name, times in taken.items()]


def _origin(kernel: str) -> str:
    """The name of the Program's node that a kernel was made of."""
    return re.sub(r"^node_|_token_\d+$|_quant$", "", kernel)


def _is_dynamic(node: Node) -> bool:
    source = node.args[WEIGHTED[node.target].input]
    return isinstance(source, Node) and source.target is FAKE_QUANTIZE_DYNAMIC
