"""bfloat16 in a graph: every float in sixteen bits, but the inputs and outputs."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from zeropoint.graph import edits as fx
from zeropoint.graph.macs import is_heavy
from zeropoint.graph.program import Program
from zeropoint.targets import machine
from zeropoint.torch_private.operators import is_operator
from zeropoint.torch_private.trees import tree_leaves, tree_map_only


def narrowed(module: GraphModule) -> GraphModule:
    """A copy with every float in bfloat16 but the inputs and outputs; its nodes keep their names."""
    module = fx.copy(module)
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and fx.is_float(node):
            # OpenVINO reads the memory of these as if it were in the order of the axes.
            value = fx.tensor_of(module, node).to(torch.bfloat16, memory_format=torch.contiguous_format)
            fx.set_tensor(module, str(node.target), value)
            node.meta["val"] = value
        elif node.op == "placeholder" and fx.is_float(node):
            _narrow(node)
        elif node.op == "call_function":
            node.args, node.kwargs = tree_map_only(
                torch.dtype,
                lambda dtype: torch.bfloat16 if dtype is torch.float32 else dtype,
                tree_map_only(float, _in_range, (node.args, node.kwargs)),
            )
            if _is_wide_alone(node):
                _widen_inputs(node)
            if (_is_wide_alone(node) and fx.is_float(node)) or _has_default_type(node):
                _narrow(node)
            elif "val" in node.meta:
                node.meta["val"] = _recorded(node.meta["val"])
        elif node.op == "output":
            for result in [result for result in node.all_input_nodes if fx.is_float(result)]:
                with module.graph.inserting_before(node):
                    wide = module.graph.call_function(_CONVERT, (result,), {"dtype": torch.float32})
                node.replace_input_with(result, wide)
    fx.remove_unused(module)
    return module


def _is_wide_alone(node: Node) -> bool:
    """Whether PyTorch has an operator for float32 and wider alone."""
    name = node.target.name() if is_operator(node.target) else ""
    return name.startswith(("aten::fft_", "aten::linalg_", "aten::stft", "aten::istft", "aten::cdist"))


def _widen_inputs(node: Node) -> None:
    for source in [source for source in node.all_input_nodes if fx.is_float(source)]:
        with node.graph.inserting_before(node):
            wide = node.graph.call_function(_CONVERT, (source,), {"dtype": torch.float32})
        wide.meta = source.meta | {"val": source.meta["val"].float()}
        node.replace_input_with(source, wide)


def _in_range(number: float) -> float:
    """A number such as the least of float32, which fills what a mask hides, as one of bfloat16."""
    largest = torch.finfo(torch.bfloat16).max
    return max(-largest, min(number, largest)) if math.isfinite(number) else number


def _recorded(value: Any) -> Any:
    """What a node has recorded of its value, in bfloat16."""
    return tree_map_only(
        Tensor, lambda one: one.to(torch.bfloat16) if one.dtype is torch.float32 else one, value
    )


_CONVERT = torch.ops.aten._to_copy.default


def _narrow(node: Node) -> None:
    """Has all users of a value read it in bfloat16."""
    with node.graph.inserting_after(node):
        narrow = node.graph.call_function(_CONVERT, (node,), {"dtype": torch.bfloat16})
    narrow.meta = node.meta | {"val": _recorded(node.meta["val"])}
    node.replace_all_uses_with(narrow, delete_user_cb=lambda user: user is not narrow)


def _has_default_type(node: Node) -> bool:
    """Whether floats are made of none, as zeros or a quotient of integers: float32 unless it says another."""
    read = tree_leaves([source.meta.get("val") for source in node.all_input_nodes])
    is_made = not any(isinstance(value, Tensor) and value.is_floating_point() for value in read)
    says = any(isinstance(part, torch.dtype) for part in tree_leaves((node.args, node.kwargs)))
    return fx.is_float(node) and is_made and not says


def observable(program: Program, names: set[str]) -> GraphModule:
    """The module to observe the nodes of these ``names`` in.

    In a large network floats are bfloat16 where the processor is faster so, in ResNet-50 twice at the same
    SQNR, if all of the nodes are still there then.
    """
    if not _doubles_in_bfloat16() or not is_heavy(program):
        return program.module
    module = narrowed(program.module)
    try:
        with torch.no_grad():
            module(*program.example_inputs)
    except (RuntimeError, NotImplementedError):  # an operator without such a kernel
        return program.module
    return module if names <= {node.name for node in module.graph.nodes} else program.module


def _doubles_in_bfloat16() -> bool:
    """Whether this processor does twice as many products a second in bfloat16 as in float32.

    By AMX it does, and on AMD's Zen 4 and later; by Intel's AVX-512 alone it does not: in ResNet-50 52 ms an
    image, where float32 takes 37.
    """
    about = machine.describe()
    instructions = set(about["instruction_sets"])
    return "amx_bf16" in instructions or ("avx512_bf16" in instructions and "AMD" in about["processor"])
