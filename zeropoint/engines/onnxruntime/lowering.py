"""Lowering to ONNX: quantize/dequantize pairs, in the form that ONNX Runtime fuses into integer kernels."""

import contextlib
import dataclasses
import importlib.metadata
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.engines.decompositions import decomposable, decompose
from zeropoint.engines.engine import PROCESSOR, SIGNATURE
from zeropoint.engines.expressions import IN_NEITHER, largest_of_windows, mean_of_windows
from zeropoint.engines.onnxruntime.recurrent import GATES, sequence_table
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.recurrent import to_layers
from zeropoint.engines.rewrites import tell
from zeropoint.engines.seal import onnx_seal, seal
from zeropoint.errors import InputError
from zeropoint.files import atomic_write
from zeropoint.graph import edits as fx
from zeropoint.graph.attention import with_finite_masks
from zeropoint.graph.operators import CLAMPS, FAKE_QUANTIZE_DYNAMIC, WEIGHTED, aten, bias_of
from zeropoint.graph.ports import ports, renamed
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers, round_groups
from zeropoint.graph.signature import Signature
from zeropoint.numerics.scheme import per_channel_shape
from zeropoint.passes.fold import fold_affine
from zeropoint.torch_private.onnx import to_onnx
from zeropoint.torch_private.pairs import pairs


def lower(program: Program, path: Path) -> None:
    """Writes the ``.onnx`` file."""
    from zeropoint.engines.onnxruntime.rewrites import rewrite  # needs ONNX's packages

    if program.method == "fp32":  # other methods have folded those that the user did not keep apart
        program = fold_affine(program)  # left apart they make MobileNetV3 2.4 times slower
    _check_pooling(program)
    program = _with_dynamic_linear(program)
    to_layers(program.module, GATES)
    module = _with_biases(_with_products(_with_arithmetic(to_pairs(program))))
    with_finite_masks(module)
    _write_out(module)
    exported = decomposable(program, module)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        table: dict[Any, Any] = {
            torch.ops.zeropoint.dynamic_linear.default: _onnx_dynamic_linear,
            aten.mean.dim: mean_as_pooling,
            **sequence_table(),
        }
        converted = to_onnx(exported, table)
    graph = converted.model.graph
    name_ports(graph, program.signature)
    tell(rewrite(converted.model))
    name_sizes(graph, program)
    parts: list[Any] = [*graph.inputs, *graph.outputs, *graph.all_nodes(), *graph.initializers.values()]
    for part in parts:
        part.metadata_props.clear()  # stack traces and module paths: 2 kB an operator
    converted.model.producer_name = "zeropoint"
    converted.model.producer_version = importlib.metadata.version("zeropoint")
    converted.model.metadata_props[PROCESSOR] = program.processor
    converted.model.metadata_props[SIGNATURE] = program.signature.to_json()
    with atomic_write(path) as temporary:
        converted.save(temporary)
        seal([temporary], onnx_seal())


def name_ports(graph: Any, signature: Signature) -> None:
    """Gives inputs and outputs the names of the model's call and outputs, if no other value has them."""
    import onnx_ir

    for number, value in enumerate(graph.outputs):
        if value in graph.inputs or value in graph.outputs[:number]:
            same = onnx_ir.node("Identity", [value])
            graph.append(same)
            graph.outputs[number] = same.outputs[0]
            same.outputs[0].type, same.outputs[0].shape = value.type, value.shape
    computed = {value.name for node in graph.all_nodes() for value in node.outputs}
    for name in computed & set(graph.initializers):  # in a model of PyTorch both may be
        stored = graph.initializers.pop(name)
        while stored.name in computed or stored.name in graph.initializers:
            stored.name += "_"
        graph.register_initializer(stored)
    taken = computed | set(graph.initializers)
    for values, names in (
        (graph.inputs, signature.input_names),
        (graph.outputs, signature.output_names),
    ):
        for value, name in zip(values, names, strict=True):
            while name in taken - {value.name}:
                name += "_"
            value.name = name


def name_sizes(graph: Any, program: Program) -> None:
    """Gives free sizes, which export calls s77 and the like, their names: batch, height, length."""
    import onnx_ir

    names = {
        str(size): str(port.shape[axis])
        for value, port in zip(graph.inputs, ports(program)[0], strict=True)
        for axis, size in enumerate(value.shape)
        if not isinstance(size, int)
    }
    made = [value for node in graph.all_nodes() for value in node.outputs]
    for value in [*graph.inputs, *graph.outputs, *made]:
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else size.value for size in value.shape]
            value.shape = onnx_ir.Shape(
                [renamed(size, names) if isinstance(size, str) else size for size in sizes]
            )


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


def _write_out(module: GraphModule) -> None:
    """Writes what the exporter does not know as expressions; adaptive pooling as what its windows hold."""
    table = _WINDOWS | IN_NEITHER
    found: list[Any] = [node for node in module.graph.nodes if node.target in table]
    if any(node.target in IN_NEITHER or any(size != 1 for size in node.args[1]) for node in found):
        decompose(module, table)


_WINDOWS: dict[Any, Any] = {
    aten.adaptive_avg_pool3d.default: mean_of_windows,
    aten.adaptive_max_pool1d.default: largest_of_windows,
    aten.adaptive_max_pool2d.default: largest_of_windows,
    aten.adaptive_max_pool3d.default: largest_of_windows,
}
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


def mean_as_pooling(input: Any, axes: Any, keepdim: bool = False, dtype: int = -1) -> Any:
    """GlobalAveragePool where the mean is over both spatial axes: only that has an integer kernel."""
    import onnxscript

    op: Any = onnxscript.opset20
    rank = len(input.shape)
    wide = input if dtype == -1 else op.Cast(input, to=dtype)
    if rank == 4 and dtype in (-1, 1) and keepdim and sorted(axis % rank for axis in axes or ()) == [2, 3]:
        return op.GlobalAveragePool(wide)
    return op.ReduceMean(wide, op.Constant(value_ints=list(axes or range(rank))), keepdims=int(keepdim))


def _with_dynamic_linear(program: Program) -> Program:
    """The Program with run-time quantizers and the layers after them as one operator each."""
    module = fx.copy(program.module)
    round_groups(module)
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


def _clamps_for_float(node: Node) -> bool:
    quantize = pairs.quantize_per_tensor.default
    return node.target in CLAMPS and any(reader.target is not quantize for reader in node.users)


def _zeros(module: GraphModule, layer: Node, count: int) -> Node:
    """A constant of zeros for a layer, where nodes are being inserted."""
    return module.graph.get_attr(fx.set_tensor(module, f"{layer.name}_zeros", torch.zeros(count)))


def _with_biases(module: GraphModule) -> GraphModule:
    """Quantized convolutions without a bias with one of zeros.

    The exporter computes zeros from the weight's shape, and with a bias that is no constant ONNX Runtime
    computes the convolution in float.
    """
    for layer in module.graph.nodes:
        description = WEIGHTED.get(layer.target)
        if description is None or description.bias is None or layer.target is aten.linear.default:
            continue
        weight = layer.args[description.weight]
        if bias_of(layer, description) is not None or layer.kwargs or weight.target not in _DEQUANTIZES:
            continue
        with module.graph.inserting_before(layer):
            bias = _zeros(module, layer, weight.meta["val"].shape[description.channel_axis])
        layer.args = (*layer.args[: description.bias], bias, *layer.args[description.bias + 1 :])
    return module


def _with_products(module: GraphModule) -> GraphModule:
    """Linear layers of integer weights as a matrix product, which ONNX Runtime does in int8, and an offset.

    A Gemm it would run in float, dequantizing weights at every call, and of an addition it would make a Gemm.
    A product right before a ReLU with a float reader it runs in float, too; an offset of zeros comes between.
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
            if negative is None and any(map(_clamps_for_float, layer.users)):
                negative = _zeros(module, layer, transposed.shape[1])
        layer.target, layer.args = aten.matmul.default, (source, weight)
        if negative is not None:
            with graph.inserting_after(layer):
                offset = graph.call_function(aten.sub.Tensor, (layer, negative))
            layer.replace_all_uses_with(offset, delete_user_cb=lambda user, offset=offset: user is not offset)
    fx.remove_unused(module)
    return module
