"""The OpenVINO engine. Its PyTorch front end reads fake-quantize nodes and integer weights as they are."""

import dataclasses
import operator
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.shape_prop import TensorMetadata

from zeropoint.engines.decompositions import decompose, default_table
from zeropoint.engines.openvino_kernels import CHOSEN_FOR, Timed, choose_kernels
from zeropoint.engines.openvino_rewrites import (
    fold_weights,
    halve_weights,
    keep_zero_points,
    share_ends,
    without_indentation,
)
from zeropoint.engines.shapes import Shapes, by_shape
from zeropoint.engines.tables import look_up_integers
from zeropoint.errors import first_line
from zeropoint.files import atomic_write
from zeropoint.graph import edits as fx
from zeropoint.graph.exported import has_branches
from zeropoint.graph.operators import FAKE_QUANTIZE_DYNAMIC, FAKE_QUANTIZE_TENSOR, WEIGHTED, aten, weighted
from zeropoint.graph.packing import pack
from zeropoint.graph.program import Program, export
from zeropoint.graph.quantizers import drop_wide, quantizers
from zeropoint.numerics.scheme import choose_parameters, off_middle
from zeropoint.targets.processor import PROCESSORS, native
from zeropoint.targets.target import AT_RUN_TIME, Target

TARGET = Target(
    name="openvino",
    weighted=frozenset({"conv", "conv1d", "conv_transpose", "linear"}),
    # Quantizers around means cost 2 to 3% on MobileNetV3 and EfficientNetV2-S; those around concatenations
    # gain 1% on ShuffleNetV2; attention in int8 gains 10 to 15% on ViT-B/16 and a BERT-base encoder.
    inputs=frozenset({"add", "cat", "product"}),
    # An addition of two quantized operands is done inside a convolution, one of which is float is not: 1 to
    # 2% on MobileNetV2 and MobileNetV3.
    adds_before_rounding=False,
    # There the operand's own quantizer cuts and does not round (ResNet-20 is the same for 36 dB so, for 37.6
    # otherwise).
    cuts_before_adding=True,
    # Where the last sum stays float its other operand becomes float, too: 1.5% of ResNet-50.
    pools_sums=True,
    # Values around 128 it takes for signed ones, by which a linear layer takes 18% longer.
    zero_in_middle=False,
    # Its low-precision pass moves a dequantization after a maximum whose input has no quantizer of its own.
    quantizes_extremes=True,
    limits=AT_RUN_TIME,
)
# Products of two activations are slower in int8 there than in float, 0.66 ms for 0.51 (3 heads of 197 tokens
# and 64 channels) and 0.95 for 0.57 (12 of 128 and 64), and saturate. Linear layers are never faster with
# int8 inputs than with float ones: of 768 to 3072 features 0.79 ms for 0.47 with one row, 1.58 for 1.42 with
# 8, 8.4 for 7.8 with 128; float32 takes 0.86, 1.67 and 7.9 (AMD EPYC with AVX2, November 2026).
WITHOUT_VNNI = dataclasses.replace(
    TARGET, inputs=TARGET.inputs - {"product"}, weights_alone=frozenset({"linear"})
)
PACKAGES = ("openvino",)
# Activations of compressed linear layers are quantized at run time in groups of this many values.
DYNAMIC_GROUP = 32


def _openvino() -> ModuleType:
    """The package without its telemetry, which reports imports and conversions over the network.

    It does so from forks of this process, which abort where other threads are running.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    import openvino

    return openvino


def unsupported(method: str) -> str | None:
    """Why this engine cannot run a method on this processor, or None."""
    openvino = _openvino()
    if method == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this processor has no bfloat16 instructions that OpenVINO uses"
    return None


def artefact_name(program: Program) -> str:
    """The ending of the artefact's file name."""
    return ".openvino.xml"


def lower(program: Program, path: Path) -> None:
    """Writes the ``.xml`` and, beside it, the ``.bin`` with the weights."""
    openvino = _openvino()
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    module = pack(look_up_integers(program).module, planes=False)
    _narrow_addends(module)
    drop_wide(module)
    _drop_dynamic(module)
    _stack_groups(module)
    products = [node for node in module.graph.nodes if _is_product(node)]
    for node in products:
        node.target = torch.ops.zeropoint.product.default
    _use_core_operators(module)
    if has_branches(module):
        module.recompile()
        module = export(program, module).run_decompositions(_table()).module(check_guards=False)
    else:
        decompose(module, _table())
    for node in module.graph.find_nodes(op="placeholder"):  # what the decoder reads shapes and types from
        value = node.meta["val"]
        node.meta["tensor_meta"] = TensorMetadata(
            value.shape, value.dtype, False, value.stride(), None, False, {}
        )
    model = openvino.convert_model(
        TorchFXPythonDecoder(module), extension=[_product_rule([node.name for node in products])]
    )
    if program.processor in PROCESSORS and PROCESSORS[program.processor].saturates:
        fold_weights(model)
    halve_weights(model)
    share_ends(model)
    if program.processor in ("arm", "any"):
        keep_zero_points(model)
    model.set_rt_info(program.method, ["zeropoint", "method"])
    model.set_rt_info(program.processor, ["zeropoint", "processor"])
    with atomic_write(path) as temporary:
        try:
            openvino.save_model(model, temporary, compress_to_fp16=False)
        except RuntimeError as error:  # of a full disk it only says "iostream error"
            raise OSError(f"{first_line(error)}, perhaps for want of space") from error
        without_indentation(temporary)
        quantized = any(node.target is FAKE_QUANTIZE_TENSOR for node in program.module.graph.nodes)
        if quantized and native().name in CHOSEN_FOR:
            choose_kernels(temporary, lambda file: _timed(program, file, temporary.with_suffix(".bin")))


def _timed(program: Program, path: Path, weights: Path) -> Timed:
    """The int8 convolutions of an artefact, on as many threads as PyTorch has."""
    timer = _timer(program, path, torch.get_num_threads(), weights)
    kernels, names = {}, {}
    for kernel in timer.kernels:
        facts = kernel.get_rt_info()
        name = next((name for name in _layers(kernel) if name.endswith("Convolution")), None)
        is_convolution = facts["layerType"].astype(str) in ("Convolution", "GroupConvolution")
        if name and is_convolution and _computes_integers(kernel, program):
            kernels[name] = facts["primitiveType"].astype(str)
            names[kernel.get_friendly_name()] = name

    def seconds() -> dict[str, float]:
        return {names.get(kernel, kernel): taken for kernel, taken in timer.seconds().items()}

    return Timed(kernels, timer.run, seconds)


def _narrow_addends(module: GraphModule) -> None:
    """Gives what a convolution adds to a sum 8 bits in place of 16: OpenVINO cuts it to that range alone."""
    for one in [one for one in quantizers(module) if one.scheme.bits == 16 and not one.is_weight]:
        users = list(one.node.users)
        if weighted(one.source) and [user.target for user in users] == [aten.add.Tensor]:
            scheme = dataclasses.replace(one.scheme, bits=8)
            low, high = ((end - one.zero_point) * one.scale for end in (one.scheme.qmin, one.scheme.qmax))
            scale, zero_point = off_middle(*choose_parameters(low, high, scheme), scheme)
            one.node.args = (one.source, float(scale), int(zero_point), scheme.qmin, scheme.qmax)


def _drop_dynamic(module: GraphModule) -> None:
    """Drops run-time quantizers: OpenVINO quantizes activations before integer weights by itself."""
    for node in [node for node in module.graph.nodes if node.target is FAKE_QUANTIZE_DYNAMIC]:
        node.replace_all_uses_with(node.args[0])
    module.graph.eliminate_dead_code()


def _stack_groups(module: GraphModule) -> None:
    """Has weights that are packed in groups hold these as (O, G, g), not as rows (O * G, g).

    OpenVINO would unpack rows when it compiles, and not multiply them by inputs that it quantizes itself.
    """
    for whole in [node for node in module.graph.nodes if node.target is aten.reshape.default]:
        waiting, parts = [whole.args[0]], []
        while waiting and waiting[-1].target in _UNPACKING:
            value = waiting.pop()
            parts.append(value)
            parts += [part for part in value.all_input_nodes if part.op == "get_attr"]
            waiting += [part for part in value.all_input_nodes if part.op != "get_attr"]
        if waiting or not parts:  # what is reshaped is no weight
            continue
        outputs = whole.args[1][0]
        for part in parts:
            if part.op == "get_attr":
                stacked = fx.tensor_of(module, part).unflatten(0, (outputs, -1))
                fx.set_tensor(module, str(part.target), stacked)
            part.meta.pop("val", None)


_UNPACKING = (aten._to_copy.default, aten.sub.Tensor, aten.mul.Tensor)


@torch.library.custom_op("zeropoint::product", mutates_args=())
def product(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product of more than two dimensions; only ever lowered, to OpenVINO's MatMul.

    Its front end knows ``aten.matmul`` only taken apart into views of a product of three dimensions, in which
    the engine no longer finds the attention that it fuses.
    """
    raise NotImplementedError


@product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return left.new_empty([*batch, left.shape[-2], right.shape[-1]])


def _is_product(node: Node) -> bool:
    return node.target is aten.matmul.default and all(s.meta["val"].dim() > 1 for s in node.all_input_nodes)


def _product_rule(names: list[str]) -> Any:
    """How products are converted; ``names`` of all of them in the order of the graph."""
    from openvino.frontend.pytorch import ConversionExtension
    from openvino.opset13 import matmul

    remaining = iter(names)

    def convert(node: Any) -> Any:
        made = matmul(node.get_input(0), node.get_input(1), False, False)
        made.set_friendly_name(next(remaining))
        return made.outputs()

    return ConversionExtension("zeropoint.product.default", convert)


def _use_core_operators(module: GraphModule) -> None:
    """Writes the commonest operators as those that the front end knows: far faster than decomposing them."""
    for node in list(module.graph.nodes):
        if node.target in (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default):
            axes = node.args[1].meta["val"].dim() - 2
            if node.kwargs or node.meta["val"].dim() != axes + 2:  # of one image without a batch
                continue
            given = node.args[2:]
            bias, *lists, groups = given + (None, [1] * axes, [0] * axes, [1] * axes, 1)[len(given) :]
            node.args = (*node.args[:2], bias, *lists, False, [0] * axes, groups)
            node.target = aten.convolution.default
        elif node.target is FAKE_QUANTIZE_TENSOR:
            with module.graph.inserting_before(node):
                masked = aten.fake_quantize_per_tensor_affine_cachemask.default
                both = module.graph.call_function(masked, node.args)
            node.target, node.args = operator.getitem, (both, 0)


def _table() -> dict[Any, Any]:
    """What the front end has operators taken apart into, those that it knows left out."""
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    known = set(ops_to_not_decompose())
    return {target: parts for target, parts in default_table().items() if target not in known}


def processor_of(path: Path) -> str:
    """The kind of processor that an artefact was quantized for; empty where it does not tell."""
    entry = ElementTree.parse(path).find("./rt_info/zeropoint/processor")
    return "" if entry is None else entry.get("value", "")


def load(path: Path, threads: int) -> Callable[..., tuple[Tensor, ...]]:
    """The artefact as a callable from tensors to a tuple of tensors."""
    compile_for = _compiler(path, threads)

    def compile(shapes: Shapes | None) -> Callable[..., tuple[Tensor, ...]]:
        request = compile_for(shapes).create_infer_request()

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            results = request.infer([tensor.detach().numpy() for tensor in inputs], share_inputs=True)
            return tuple(torch.from_numpy(result) for result in results.values())

        return run

    return by_shape(compile)


def _compiler(
    path: Path, threads: int, weights: Path | None = None, **more: Any
) -> Callable[[Shapes | None], Any]:
    """What compiles the artefact for given shapes, or for all; ``more`` is configuration."""
    openvino = _openvino()
    core = openvino.Core()
    model = core.read_model(path, weights or path.with_suffix(".bin"))
    free = [node.get_partial_shape() for node in model.inputs]
    method = model.get_rt_info(["zeropoint", "method"]).astype(str)
    configuration = more | {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # OpenVINO takes bfloat16 by itself where the processor has it; float32 has to mean float32.
        "INFERENCE_PRECISION_HINT": "bf16" if method == "bf16" else "f32",
    }
    # By itself it does so to the inputs of all integer weights: 45 dB left of weight-only's 128 at 8 bits.
    configuration["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = DYNAMIC_GROUP if method == "dynamic" else 0

    def compile_for(shapes: Shapes | None) -> Any:
        try:
            # With sizes left free ShuffleNetV2 is 27% slower, MobileNetV3 12%, ResNet-18 2%.
            model.reshape(dict(enumerate(free if shapes is None else map(list, shapes))))
            return core.compile_model(model, "CPU", configuration)
        except RuntimeError:  # some recurrent layers compile with free sizes only
            model.reshape(dict(enumerate(free)))
            return core.compile_model(model, "CPU", configuration)

    return compile_for


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, by its runtime model."""
    shapes = tuple(tuple(tensor.shape) for tensor in program.example_inputs)
    nodes = [node for node in program.module.graph.nodes if node.target in {*WEIGHTED, aten.bmm.default}]
    products = [node.name for node in nodes if _is_product(node)]
    found = set()
    for kernel in _compiler(path, 1)(shapes).get_runtime_model().get_ops():
        if _computes_integers(kernel, program):
            layers = _origins(kernel)
            found.update(layers)
            # An attention is one kernel; its first product, which takes in a transpose, has a new name.
            if any(layer.startswith("MatMul_") for layer in layers):
                found |= {products[products.index(layer) - 1] for layer in layers if layer in products}
    return {node.name for node in nodes} & found


def _layers(kernel: Any) -> list[str]:
    """The names of the artefact's layers that a kernel was made of."""
    return kernel.get_rt_info()["originalLayersNames"].astype(str).split(",")


def _origins(kernel: Any) -> list[str]:
    """The names of the Program's nodes that a kernel was made of."""
    return [name.partition("/")[0] for name in _layers(kernel)]


def _computes_integers(kernel: Any, program: Program) -> bool:
    facts = kernel.get_rt_info()
    # Of a float layer with integer weights it gives their type, as it does where it quantizes by itself.
    is_float = facts["primitiveType"].astype(str).endswith("_f32") and program.method != "dynamic"
    return facts["runtimePrecision"].astype(str) in ("u8", "i8") and not is_float


@dataclass(frozen=True)
class _Timer:
    """A compiled artefact: its kernels, a call of it, and what its calls took.

    ``seconds`` gives, by the name of each kernel, the mean over the calls since it was last asked.
    """

    kernels: list[Any]
    run: Callable[[], None]
    seconds: Callable[[], dict[str, float]]


def _timer(program: Program, path: Path, threads: int, weights: Path | None = None) -> _Timer:
    """An artefact compiled for the Program's example inputs, to call on them."""
    shapes = tuple(tuple(tensor.shape) for tensor in program.example_inputs)
    compiled = _compiler(path, threads, weights, PERF_COUNT=True)(shapes)
    request, inputs = compiled.create_infer_request(), [tensor.numpy() for tensor in program.example_inputs]
    calls, asked = 0, 0
    before: dict[str, float] = {}

    def run() -> None:
        nonlocal calls
        request.infer(inputs, share_inputs=True)
        calls += 1

    def seconds() -> dict[str, float]:
        nonlocal asked, before
        means = {kernel.node_name: kernel.real_time.total_seconds() for kernel in request.profiling_info}
        latest = {name: mean_since(mean, calls, before.get(name, 0.0), asked) for name, mean in means.items()}
        asked, before = calls, means
        return latest

    return _Timer(compiled.get_runtime_model().get_ops(), run, seconds)


def mean_since(mean: float, calls: int, earlier: float, before: int) -> float:
    """The mean of the calls since ``before``, from that of all and the ``earlier`` one.

    OpenVINO's counters are means over all calls since compilation, in whole microseconds.
    """
    return (mean * calls - earlier * before) / (calls - before)


def layer_seconds(
    program: Program, path: Path, threads: int, calls: int
) -> list[tuple[float, tuple[str, ...]]]:
    """The mean time of every kernel over so many calls, and the names of the Program's nodes in it.

    OpenVINO counts whole microseconds: what is under one counts as half.
    """
    timer = _timer(program, path, threads)
    origins = {kernel.get_friendly_name(): tuple(_origins(kernel)) for kernel in timer.kernels}
    timer.run()
    timer.seconds()  # the first call takes several times as long
    for _ in range(calls):
        timer.run()
    return [(max(seconds, 5e-7), origins.get(name, ())) for name, seconds in timer.seconds().items()]
