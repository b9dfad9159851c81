"""The ONNX Runtime engine: quantize/dequantize pairs in ONNX, which it fuses into its integer kernels."""

import contextlib
import dataclasses
import io
import json
import re
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.engines.decompositions import decomposable
from zeropoint.engines.onnx_rewrites import rewrite
from zeropoint.engines.qdq import pairs, to_pairs
from zeropoint.engines.shapes import Shapes, by_shape
from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.graph import edits as fx
from zeropoint.graph.exported import has_branches
from zeropoint.graph.operators import FAKE_QUANTIZE_DYNAMIC, WEIGHTED, aten, bias_of
from zeropoint.graph.program import Program, export
from zeropoint.graph.quantizers import quantizers
from zeropoint.numerics.scheme import per_channel_shape
from zeropoint.passes.fold import fold_batch_norms
from zeropoint.targets.target import AT_RUN_TIME, NO_GROUPS, Limit, Target

TARGET = Target(
    name="onnxruntime",
    weighted=frozenset({"conv", "conv1d", "linear"}),
    # Quantizers around concatenations and average pools cost 5% on ShuffleNetV2.
    inputs=frozenset({"add", "mean", "avg_pool"}),
    # A convolution runs in int8 only between quantizers, and takes a ReLU or clip in by its output's range.
    outputs=frozenset({"conv", "conv1d", "mean", "avg_pool"}),
    fused=frozenset({"relu"}),
    adds_before_rounding=False,
    limits=(
        *AT_RUN_TIME,
        Limit(("dynamic",), "weight_symmetric", (None, True), "it needs symmetric weights there"),
        NO_GROUPS,
    ),
)
WITHOUT_VNNI = TARGET
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
PROCESSOR = "zeropoint_processor"  # in a file's metadata: the kind that it was quantized for
# The fused addition and layer norm takes nine times as long as the two alone: 19% on a BERT-base encoder.
DISABLED = ["SkipLayerNormFusion"]


def unsupported(method: str) -> str | None:
    """Why this engine cannot run a method on this processor, or None."""
    return "ONNX Runtime has no bfloat16 kernels for this processor" if method == "bf16" else None


def artefact_name(program: Program) -> str:
    """The ending of the artefact's file name."""
    return ".onnx"


def lower(program: Program, path: Path) -> None:
    """Writes the ``.onnx`` file."""
    if program.method == "fp32":  # other methods have folded those that the user did not keep apart
        program = fold_batch_norms(program)  # left apart they make MobileNetV3 2.4 times slower
    _check_pooling(program)
    module = _with_products(_with_arithmetic(to_pairs(_with_dynamic_linear(program))))
    exported = export(program, module) if has_branches(module) else decomposable(module)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        table: dict[Any, Any] = {
            torch.ops.zeropoint.dynamic_linear.default: _onnx_dynamic_linear,
            aten.mean.dim: _onnx_mean,
        }
        converted = torch.onnx.export(
            exported, (), dynamo=True, verbose=False, optimize=False, custom_translation_table=table
        )
    assert converted is not None
    rewrite(converted.model)
    parts: list[Any] = [*converted.model.graph.all_nodes(), *converted.model.graph.initializers.values()]
    for part in parts:
        part.metadata_props.clear()  # stack traces and module paths: 2 kB an operator
    converted.model.metadata_props[PROCESSOR] = program.processor
    with atomic_write(path) as temporary:
        converted.save(temporary)


def _check_pooling(program: Program) -> None:
    """Raises InputError for windows that hang on a free size: the exporter makes those of the example."""
    for node in program.module.graph.nodes:
        if node.target in _ADAPTIVE and any(size != 1 for size in node.args[1]):
            places = node.args[0].meta["val"].shape[2:]
            if not all(isinstance(size, int) for size in places):
                raise InputError(
                    f"ONNX cannot pool any size to {list(node.args[1])}, as {fx.module_name(node)} does;"
                    " capture with fixed sizes, or take another engine"
                )


_ADAPTIVE = {
    getattr(aten, f"adaptive_{kind}_pool{axes}d").default for kind in ("avg", "max") for axes in (1, 2, 3)
}


@torch.library.custom_op("zeropoint::dynamic_linear", mutates_args=())
def dynamic_linear(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer that quantizes its input at run time; only ever lowered, to ``_onnx_dynamic_linear``.

    ``weight`` is int8 of (inputs, outputs), ``scale`` float32 of (outputs,) or (1,).
    """
    raise NotImplementedError


@dynamic_linear.register_fake
def _(input: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty([*input.shape[:-1], weight.shape[1]])


def _onnx_dynamic_linear(input: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    """The chain of ONNX operators that ONNX Runtime fuses into one integer matrix product."""
    from onnxscript import opset20 as op

    integers, input_scale, zero_point = op.DynamicQuantizeLinear(input)
    product = op.Cast(op.MatMulInteger(integers, weight, zero_point), to=1)  # 1: float32
    output = op.Mul(product, op.Mul(input_scale, scale))
    return output if bias is None else op.Add(output, bias)


def _onnx_mean(input: Any, axes: Any, keepdim: bool = False, dtype: int = -1) -> Any:
    """GlobalAveragePool where the mean is over both spatial axes: only that has an integer kernel."""
    import onnxscript

    op: Any = onnxscript.opset20
    rank = len(input.shape)
    wide = input if dtype == -1 else op.Cast(input, to=dtype)
    if rank == 4 and dtype in (-1, 1) and keepdim and sorted(axis % rank for axis in axes or ()) == [2, 3]:
        return op.GlobalAveragePool(wide)
    return op.ReduceMean(wide, op.Constant(value_ints=list(axes or range(rank))), keepdims=int(keepdim))


def _with_dynamic_linear(program: Program) -> Program:
    """The Program with run-time quantizers and the layers behind them as one operator each."""
    if not any(node.target is FAKE_QUANTIZE_DYNAMIC for node in program.module.graph.nodes):
        return program
    module = fx.copy(program.module)
    weights = {quantizer.node: quantizer for quantizer in quantizers(module) if quantizer.is_weight}
    dynamic = [node for node in module.graph.nodes if node.target is FAKE_QUANTIZE_DYNAMIC]
    for layer in [user for node in dynamic for user in node.users]:
        description = WEIGHTED[layer.target]
        node, quantizer = layer.args[description.input], weights.get(layer.args[description.weight])
        if quantizer is None or node.args[4] != 255 or quantizer.zero_point.any():
            raise InputError(
                "dynamic layers of onnxruntime have 8-bit inputs, symmetric weights and no groups"
            )
        integers = quantizer.integers(module)
        outputs_last = integers.t() if quantizer.axis == 0 else integers
        name = f"{quantizer.source.target}_dynamic"
        bias = bias_of(layer, description)
        with module.graph.inserting_before(layer):
            constants = [
                module.graph.get_attr(fx.set_tensor(module, f"{name}_{part}", value.contiguous()))
                for part, value in (("weight", outputs_last), ("scale", quantizer.scale))
            ]
            target = torch.ops.zeropoint.dynamic_linear.default
            fused = module.graph.call_function(target, (node.args[0], *constants, bias))
        fused.meta = dict(layer.meta)
        layer.replace_all_uses_with(fused)
    fx.remove_unused(module)
    return dataclasses.replace(program, module=module)


def _with_arithmetic(module: GraphModule) -> GraphModule:
    """The weights of layers that compute in float unpacked by a cast, a difference and a product.

    These ONNX Runtime folds when it loads the file; a DequantizeLinear it would compute at every call.
    """
    graph = module.graph
    for node in [node for node in graph.nodes if node.target in _DEQUANTIZES]:
        arguments: Any = node.args
        integers, scale, zero_point, *rest = arguments
        floats = [user for user in node.users if not _reads_integers(user)]
        if integers.op != "get_attr" or not floats:
            continue
        if node.target is pairs.dequantize_per_channel.default:
            name, dimensions = integers.target, fx.tensor_of(module, integers).dim()
            values = [fx.tensor_of(module, part).float() for part in (scale, zero_point)]
            shape = per_channel_shape(values[0], dimensions, rest[0])
            with graph.inserting_before(node):
                scale, zero_point = (
                    graph.get_attr(fx.set_tensor(module, f"{name}_{part}_shaped", value.reshape(shape)))
                    for part, value in zip(("scale", "zero_point"), values, strict=True)
                )
            is_symmetric = not values[1].any()
        else:
            is_symmetric = zero_point == 0
        with graph.inserting_before(node):
            value = graph.call_function(aten._to_copy.default, (integers,), {"dtype": torch.float32})
            if not is_symmetric:
                value = graph.call_function(aten.sub.Tensor, (value, zero_point))
            value = graph.call_function(aten.mul.Tensor, (value, scale))
        value.meta = dict(node.meta)
        for user in floats:
            user.replace_input_with(node, value)
    fx.remove_unused(module)
    return module


_DEQUANTIZES: tuple[Any, ...] = (pairs.dequantize_per_tensor.default, pairs.dequantize_per_channel.default)


def _reads_integers(layer: Node) -> bool:
    """Whether the input of a layer is quantized."""
    description = WEIGHTED.get(layer.target)
    source = layer.args[description.input] if description else None
    return isinstance(source, Node) and source.target in _DEQUANTIZES


def _with_products(module: GraphModule) -> GraphModule:
    """Linear layers of integer weights as a matrix product, which ONNX Runtime does in int8, and an offset.

    A Gemm it would run in float, dequantizing weights at every call, and of an addition it would make a Gemm.
    """
    graph = module.graph
    for layer in [node for node in graph.nodes if node.target is aten.linear.default]:
        source, weight, *bias = layer.args
        if weight.target not in (pairs.dequantize_per_tensor.default, pairs.dequantize_per_channel.default):
            continue
        integers, *parameters = weight.args
        if weight.target is pairs.dequantize_per_channel.default:
            parameters[2] = 1 - parameters[2]  # the axis of channels
        transposed = fx.tensor_of(module, integers).t().contiguous()
        with graph.inserting_before(layer):
            constant = graph.get_attr(fx.set_tensor(module, f"{integers.target}_transposed", transposed))
            weight = graph.call_function(weight.target, (constant, *parameters))
            negative = graph.call_function(aten.neg.default, tuple(bias)) if any(bias) else None
        layer.target, layer.args = aten.matmul.default, (source, weight)
        if negative is not None:
            with graph.inserting_after(layer):
                offset = graph.call_function(aten.sub.Tensor, (layer, negative))
            layer.replace_all_uses_with(offset, delete_user_cb=lambda user, offset=offset: user is not offset)
    fx.remove_unused(module)
    return module


def processor_of(path: Path) -> str:
    """The kind of processor that an artefact was quantized for; empty where it does not tell."""
    import onnx

    metadata = onnx.load(path, load_external_data=False).metadata_props
    return next((str(entry.value) for entry in metadata if entry.key == PROCESSOR), "")


def load(path: Path, threads: int) -> Callable[..., tuple[Tensor, ...]]:
    """The artefact as a callable from tensors to a tuple of tensors."""
    import onnx
    import onnxruntime

    inputs = onnx.load(path, load_external_data=False).graph.input
    names = [value.name for value in inputs]
    free = [[size.dim_param for size in value.type.tensor_type.shape.dim] for value in inputs]

    def compile(shapes: Shapes | None) -> Callable[..., tuple[Tensor, ...]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        for dimensions, shape in zip(free, shapes or (), strict=shapes is not None):
            for name, size in zip(dimensions, shape, strict=True):
                if name:
                    options.add_free_dimension_override_by_name(name, size)
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
        )

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            feed: dict[str, Any] = {
                name: tensor.detach().numpy() for name, tensor in zip(names, inputs, strict=True)
            }
            return tuple(torch.from_numpy(result) for result in session.run(None, feed))

        return run

    return by_shape(compile)


_INTEGER = {
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger",
}  # fmt: skip


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, by its optimized graph."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
        )
        kernels = onnx.load(options.optimized_model_filepath).graph.node
    found = {_origin(kernel.name) for kernel in kernels if kernel.op_type in _INTEGER}
    nodes = [node for node in program.module.graph.nodes if node.target in WEIGHTED]
    # Those of dynamic layers are numbered by all operators of the graph, in its order.
    dynamic = sorted(int(name.rpartition("_")[2]) for name in found if name.startswith("MatMulInteger_"))
    layers = [node.name for node in nodes if _is_dynamic(node)]
    in_order = set(layers) if len(dynamic) == len(layers) else set()
    return {node.name for node in nodes if not _is_dynamic(node)} & found | in_order


def _origin(kernel: str) -> str:
    """The name of the Program's node that a kernel was made of."""
    return re.sub(r"^node_|_token_\d+$|_quant$", "", kernel)


def layer_seconds(
    program: Program, path: Path, threads: int, calls: int
) -> list[tuple[float, tuple[str, ...]]]:
    """The median time of every kernel over so many calls, and the names of the Program's nodes in it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
        )
        names = [value.name for value in session.get_inputs()]
        feed = {name: value.numpy() for name, value in zip(names, program.example_inputs, strict=True)}
        for _ in range(calls):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] * 1e-6)
    return [(statistics.median(times), (_origin(name),)) for name, times in taken.items()]


def _is_dynamic(node: Node) -> bool:
    source = node.args[WEIGHTED[node.target].input]
    return isinstance(source, Node) and source.target is FAKE_QUANTIZE_DYNAMIC
