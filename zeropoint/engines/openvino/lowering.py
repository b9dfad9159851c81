"""Lowering to OpenVINO, whose PyTorch front end reads fake-quantize nodes and integer weights as they are."""

import dataclasses
import operator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.shape_prop import TensorMetadata

from zeropoint.engines.decompositions import decomposable, decompose, default_table
from zeropoint.engines.expressions import (
    IN_NEITHER,
    cross_product,
    cubic_resized,
    diagonal,
    fraction,
    index_add,
    pool_adaptively,
    round_to,
    triangle_resized,
    truncate,
    unfold,
    x_log_y,
)
from zeropoint.engines.openvino.kernels import CHOSEN_FOR, choose_kernels
from zeropoint.engines.openvino.package import openvino
from zeropoint.engines.openvino.profile import timed_convolutions
from zeropoint.engines.openvino.recurrent import GATES, sequence_rules
from zeropoint.engines.openvino.rewrites import is_product, rewrite, without_indentation
from zeropoint.engines.recurrent import to_layers
from zeropoint.engines.rewrites import tell
from zeropoint.engines.seal import seal, xml_seal
from zeropoint.engines.tables import look_up_integers
from zeropoint.errors import first_line
from zeropoint.files import atomic_write
from zeropoint.graph import edits as fx
from zeropoint.graph.attention import with_finite_masks
from zeropoint.graph.constants import is_constant
from zeropoint.graph.exported import has_branches
from zeropoint.graph.operators import CLAMPS, FAKE_QUANTIZE_DYNAMIC, FAKE_QUANTIZE_TENSOR, aten, weighted
from zeropoint.graph.packing import pack
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import drop_wide, dynamic_ends, quantizers
from zeropoint.numerics.scheme import choose_parameters, off_middle
from zeropoint.targets.processor import native


def lower(program: Program, path: Path) -> None:
    """Writes the ``.xml`` and, beside it, the ``.bin`` with the weights."""
    package = openvino()
    from openvino.frontend.pytorch import ConversionExtension
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    module = look_up_integers(program).module
    to_layers(module, GATES)
    module = pack(module, planes=False)
    _narrow_addends(module)
    drop_wide(module)
    _drop_dynamic(module)
    _stack_groups(module)
    _keep_ranges_whole(module)
    products = [node for node in module.graph.nodes if is_product(node)]
    for node in products:
        node.target = torch.ops.zeropoint.product.default
    with_finite_masks(module)
    _use_core_operators(module)
    _separate_outputs(module)
    if has_branches(module):
        module = decomposable(program, module).run_decompositions(_table()).module(check_guards=False)
    else:
        decompose(module, _table())
    _drop_same_shapes(module)
    for node in module.graph.find_nodes(op="placeholder"):  # what the decoder reads shapes and types from
        value = node.meta["val"]
        node.meta["tensor_meta"] = TensorMetadata(
            value.shape, value.dtype, False, value.stride(), None, False, {}
        )
    model = package.convert_model(
        TorchFXPythonDecoder(module),
        extension=[
            _product_rule([node.name for node in products]),
            ConversionExtension("aten.scatter_reduce.two", _reduce_at_indices),
            *sequence_rules(),
        ],
    )
    tell(rewrite(model, program.processor))
    model.set_rt_info(program.method, ["zeropoint", "method"])
    model.set_rt_info(program.processor, ["zeropoint", "processor"])
    model.set_rt_info(program.signature.to_json(), ["zeropoint", "signature"])
    for port, name in zip(model.inputs, program.signature.input_names, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, program.signature.output_names, strict=True):
        port.get_tensor().add_names({name})  # an input may be an output, too
    with atomic_write(path) as temporary:
        try:
            package.save_model(model, temporary, compress_to_fp16=False)
        except RuntimeError as error:  # of a full disk it only says "iostream error"
            raise OSError(f"{first_line(error)}, perhaps for want of space") from error
        without_indentation(temporary)
        quantized = any(node.target is FAKE_QUANTIZE_TENSOR for node in program.module.graph.nodes)
        if quantized and native().name in CHOSEN_FOR:
            weights = temporary.with_suffix(".bin")
            choose_kernels(temporary, lambda file: timed_convolutions(program, file, weights))
        seal([temporary, temporary.with_suffix(".bin")], xml_seal())


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
        source, result = dynamic_ends(node)
        result.replace_all_uses_with(source)
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


def _keep_ranges_whole(module: GraphModule) -> None:
    """Cuts what is of a linear layer, and of constants, to the least of the range that it is quantized to.

    That changes nothing, but keeps OpenVINO 2026.4.1 from taking the constants into the ranges of the
    quantizer, one for each channel, with which its linear layers compute garbage. A clamp it would drop.
    """
    for node in module.graph.find_nodes(op="call_function", target=FAKE_QUANTIZE_TENSOR):
        source, scale, zero_point, low, _ = node.args
        if source.target in _AFFINE and _is_of_linear(source):
            least = torch.tensor(float((low - zero_point) * scale))
            with module.graph.inserting_before(node):
                end = module.graph.get_attr(fx.set_tensor(module, f"{node.name}__least", least))
                kept = module.graph.call_function(aten.maximum.default, (source, end))
            kept.meta = dict(source.meta)
            node.args = (kept, *node.args[1:])
    module.recompile()


def _is_of_linear(node: Node) -> bool:
    """Whether a value is of a linear layer, by operators that work element by element with constants."""
    while node.target in _AFFINE or node.target in CLAMPS:
        computed = [one for one in node.all_input_nodes if not is_constant(one)]
        if len(computed) != 1:
            return False
        (node,) = computed
    return node.target is aten.linear.default


_AFFINE = (
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.batch_norm.default,
)
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


def _reduce_at_indices(node: Any) -> Any:
    """Converts ``aten.scatter_reduce`` to the operator that the front end has for other graphs alone."""
    from openvino.opset13 import scatter_elements_update

    to, axis, indices, values, name, *rest = (
        node.get_input(position) for position in range(node.get_input_size())
    )
    reduction = {"amax": "max", "amin": "min", "prod": "prod"}[bytes(name.get_node().get_data()).decode()]
    made = scatter_elements_update(to, indices, values, axis, reduction, use_init_val=not rest)
    return made.outputs()


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
        elif node.target is aten.scatter_reduce.two and not node.kwargs.get("include_self", True):
            node.args, node.kwargs = (*node.args, False), {}  # the decoder reads no keywords
        elif node.target is FAKE_QUANTIZE_TENSOR:
            with module.graph.inserting_before(node):
                masked = aten.fake_quantize_per_tensor_affine_cachemask.default
                both = module.graph.call_function(masked, node.args)
            node.target, node.args = operator.getitem, (both, 0)


def _drop_same_shapes(module: GraphModule) -> None:
    """Drops reshapes to the shape that there is.

    Between one of them and another reshape OpenVINO 2026.4.1 drops a transpose of two axes of unlike size,
    where a third one has the size of either: attention of as many tokens as a head has channels.
    """
    for node in module.graph.find_nodes(op="call_function", target=aten.view.default):
        before, after = (one.meta["val"].shape for one in (node.args[0], node))
        if list(map(str, before)) == list(map(str, after)):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def _separate_outputs(module: GraphModule) -> None:
    """Gives outputs that are one tensor a tensor each: the front end knows one name of a tensor."""
    (output,) = module.graph.find_nodes(op="output")
    results, seen = list(output.args[0]), set()
    for number, result in enumerate(results):
        source = result
        while source.target in _ALIASES:
            source = source.args[0]
        if source in seen:  # these two are no operators that the front end leaves out, whatever the type
            with module.graph.inserting_before(output):
                row = module.graph.call_function(aten.unsqueeze.default, (result, 0))
                results[number] = module.graph.call_function(aten.squeeze.dim, (row, 0))
        seen.add(source)
    output.args = (tuple(results),)


_ALIASES = (aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default)


def _table() -> dict[Any, Any]:
    """What the front end has operators taken apart into, those that it knows left out."""
    from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose

    known = set(ops_to_not_decompose())
    parts = {target: parts for target, parts in default_table().items() if target not in known}
    return parts | IN_NEITHER | _OWN


_OWN: dict[Any, Any] = {
    aten.index_add.default: index_add,
    aten.unfold.default: unfold,
    aten.trunc.default: truncate,
    aten.round.decimals: round_to,
    aten.diagonal.default: diagonal,
    aten.frac.default: fraction,
    aten.xlogy.Tensor: x_log_y,
    aten.xlogy.Scalar_Other: x_log_y,
    aten.linalg_cross.default: cross_product,
    aten._upsample_bilinear2d_aa.vec: triangle_resized,
    aten._upsample_bicubic2d_aa.vec: cubic_resized,
    aten.adaptive_avg_pool1d.default: pool_adaptively,
    aten.adaptive_avg_pool2d.default: pool_adaptively,
}
