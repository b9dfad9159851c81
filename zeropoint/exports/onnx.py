"""ONNX with quantize/dequantize pairs, as TensorRT and QNN read it, checked on ONNX Runtime's CPU."""

import contextlib
import importlib.metadata
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zeropoint.engines import find as find_engine
from zeropoint.engines.qdq import to_pairs
from zeropoint.engines.verify import least
from zeropoint.errors import InputError
from zeropoint.exports import Export, find
from zeropoint.files import atomic_write
from zeropoint.graph.program import Program, at_batch, check_program
from zeropoint.graph.program import export as exported_program
from zeropoint.numerics.sqnr import sqnr_db
from zeropoint.passes.fold import fold_affine


@dataclass(frozen=True)
class Exported:
    """A file for another runtime: how near ONNX Runtime's CPU is to the simulation on the example, in dB.

    ``operators``: the number of each in the graph.

    >>> for_phone = zp.quantize(program, "static", calibration=batches, target="qnn")
    >>> zp.export(for_phone, "qnn", "phone.onnx").sqnr_db > 30
    True
    """

    path: Path
    sqnr_db: float
    operators: dict[str, int]


def export(program: Program, to: str, path: str | os.PathLike[str]) -> Exported:
    """Writes ``program`` as ONNX for ``to``, tensorrt or qnn, after it was quantized for that target.

    The graph is run on ONNX Runtime's CPU, without its optimizations, and compared with the simulation; its
    operators are looked up in the runtime's list. The runtime itself is not needed, and not run.

    Raises InputError for a Program that was quantized for another target, an operator that is not in the
    list, outputs that differ, or a file that cannot be written; then there is no file.

    >>> for_gpu = zp.quantize(program, "static", calibration=batches, target="tensorrt")
    >>> zp.export(for_gpu, "tensorrt", "m.onnx").operators["Conv"]
    1
    """
    check_program(program)
    wanted = find(to)
    find_engine("onnxruntime")
    if program.target not in ("", to) or (program.target == "" and program.method != "fp32"):
        raise InputError(
            f"the Program is quantized for {program.target or 'no target'}; quantize it with --target {to}"
        )
    model = _converted(program, wanted)
    operators: dict[str, int] = {}
    for node in model.graph.all_nodes():
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    if unknown := sorted(set(operators) - wanted.operators):
        raise InputError(
            f"{to} supports no {', '.join(unknown)} ({wanted.source});"
            " write the model with operators of that list"
        )
    with atomic_write(path) as temporary:
        _save(model, temporary)
        return Exported(Path(path), _check(program, wanted, temporary, to), operators)


def _converted(program: Program, wanted: Export) -> Any:
    """The Program as a model of onnx_ir, with the names of its inputs and outputs."""
    import torch
    from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    from zeropoint.engines.onnxruntime.lowering import mean_as_pooling, name_ports, name_sizes
    from zeropoint.engines.onnxruntime.rewrites import split_directly
    from zeropoint.torch_private.onnx import to_onnx

    one = at_batch(fold_affine(program) if program.method == "fp32" else program, 1)
    module = to_pairs(one, keep_wide=True)
    traced = exported_program(one, module, fixed=wanted.fixed)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        model = to_onnx(traced, {torch.ops.aten.mean.dim: mean_as_pooling}).model
    name_ports(model.graph, program.signature)
    split_directly(model)
    fold_constants(model)  # but not integer weights
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if not wanted.fixed:
        name_sizes(model.graph, program)
    if wanted.integer_biases:
        _integer_biases(model.graph)
    RemoveUnusedNodesPass()(model)
    for part in [*model.graph.inputs, *model.graph.outputs, *model.graph.all_nodes()]:
        part.metadata_props.clear()
    model.opset_imports[""] = max(model.opset_imports[""], wanted.opset)
    model.producer_name, model.producer_version = "zeropoint", importlib.metadata.version("zeropoint")
    return model


def _save(model: Any, path: Path) -> None:
    import onnx_ir

    onnx_ir.save(model, path)


def _integer_biases(graph: Any) -> None:
    """Biases of layers of quantized operands as int32, in units of the product of their scales, in place."""
    import onnx_ir

    for layer in list(graph):
        if layer.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(layer.inputs) < 3:
            continue
        sources = [value.producer() for value in layer.inputs[:2]]
        bias = layer.inputs[2]
        if (
            any(one is None or one.op_type != "DequantizeLinear" for one in sources)
            or bias.const_value is None
        ):
            continue
        first, second = (one.inputs[1].const_value.numpy() for one in sources)
        scale = np.asarray(first * second)
        scale = np.broadcast_to(scale, bias.shape.numpy()).astype(np.float32)
        integers = np.rint(bias.const_value.numpy().astype(np.float64) / scale).astype(np.int32)
        parts = [
            onnx_ir.val(f"{bias.name}_{end}", const_value=onnx_ir.tensor(array, name=f"{bias.name}_{end}"))
            for end, array in (("integers", integers), ("scale", scale))
        ]
        for part in parts:
            if part.name not in graph.initializers:
                graph.register_initializer(part)
        node = onnx_ir.node(
            "DequantizeLinear", [graph.initializers[part.name] for part in parts], {"axis": 0}
        )
        node.outputs[0].name = f"{bias.name}_{layer.name}_dequantized"
        graph.insert_before(layer, node)
        layer.replace_input_with(2, node.outputs[0])


def _check(program: Program, wanted: Export, path: Path, to: str) -> float:
    """The SQNR of ONNX Runtime's outputs to the simulation; raises InputError if it is too low."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    if wanted.symmetric:
        _check_zero_points(model, to)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    inputs = at_batch(program, 1).example_inputs
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})
    import torch

    closest = min(
        sqnr_db(one, torch.from_numpy(other)) for one, other in zip(program.flat(*inputs), found, strict=True)
    )
    if closest < least(program):
        raise InputError(
            f"the ONNX for {to} has an SQNR of {closest:.1f} dB to the simulation on ONNX Runtime's CPU;"
            " keep the layers before it float with --skip"
        )
    return closest


def _check_zero_points(model: Any, to: str) -> None:
    """Raises InputError for a quantizer whose zero point is not 0, or whose integers have no sign."""
    import onnx

    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            zero_point = constants[node.input[2]]
            if zero_point.any() or zero_point.dtype != np.int8:
                raise InputError(f"{to} takes signed integers with zero point 0, and {node.name} has others")
