"""Capture: any ``nn.Module``, unedited, to a float Program of ATen operators without side effects."""

import contextlib
import copy
import dataclasses
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from zeropoint.data.nested import flatten
from zeropoint.errors import InputError
from zeropoint.graph.batch import Batch, find_batch
from zeropoint.graph.constants import fold_constants
from zeropoint.graph.contractions import contract_by_products
from zeropoint.graph.experts import batched_experts
from zeropoint.graph.export import export_model, module_of, warn_of_fixed
from zeropoint.graph.flat import FlatModel
from zeropoint.graph.functional import alias_dropouts, canonicalize, functionalize, shield_inputs
from zeropoint.graph.padding import packing_encoders, zeros_at_padding
from zeropoint.graph.program import Program
from zeropoint.graph.signature import Call, Signature, call_of, of_call
from zeropoint.graph.verify import Sample, check_capture, is_random, outputs_of, second_sample
from zeropoint.graph.written_out import add_batch_axes, write_out
from zeropoint.torch_private.conversions import conversions_skipped
from zeropoint.torch_private.masks import masks_unread
from zeropoint.torch_private.recurrent import shapes_alone


def capture(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    free_sizes: bool = False,
    origin: str = "",
) -> Program:
    """The float Program that computes what ``model`` does in eval mode.

    ``example_inputs`` is one tensor, a tuple or list of the positional arguments of one call, or a dict of
    keyword arguments; ``example_kwargs`` are keyword arguments beside positional ones. Arguments may be
    tensors in tuples, lists, dicts and dataclasses; all else is a constant. The axis of each input along
    which items lie is found, and its size stays free if the model allows it. With ``free_sizes`` so does
    every other size, such as height and width or the length of a sequence, and a warning names those that
    the model fixes, and by what. Neither the model, its mode nor its weights are changed; the Program shares
    the weights' storage if the model is float32 on the CPU; else it holds float32 CPU copies. It takes
    float32 inputs if the model takes another float type. What the model writes into its inputs or buffers is
    not kept: a Program has no state.

    Raises InputError if the model fails on the example inputs or cannot be exported, with the operator and
    the line of the user's code.

    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    >>> program = zp.capture(model, torch.rand(1, 3, 2, 2))
    >>> program(torch.rand(5, 3, 2, 2)).shape
    torch.Size([5, 3])
    """
    model = float_on_cpu(unwrapped(model))
    _check_weights(model)
    if not flatten((example_inputs, example_kwargs))[0]:
        raise InputError(
            "example inputs must be a tensor, or a sequence or dict of tensors: the arguments of one call"
        )
    signature, tensors = of_call(model.forward, _call(model, example_inputs, example_kwargs or {}))
    if any(tensor.is_meta for tensor in tensors):
        raise InputError("an example input is on the meta device and has no values; give one on the CPU")
    inputs = tuple(
        (tensor.detach().float() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for tensor in tensors
    )
    if empty := [number for number, tensor in enumerate(inputs, 1) if not tensor.numel()]:
        raise InputError(f"example input {empty[0]} is empty; give at least one item")
    flat = FlatModel(model, signature)
    with _in_eval_mode(model):
        with _as_input_errors():
            found: list[Tensor] = []
            packing = packing_encoders(model, lambda: found.extend(_tried_out(flat, inputs)))
            example, second = Sample(inputs, found), second_sample(flat, inputs)
            batch = find_batch(
                lambda of: outputs_of(flat, of), example, second, lambda: is_random(flat, inputs)
            )
            with (
                zeros_at_padding(packing),
                batched_experts(model),
                shapes_alone(),
                masks_unread(),
                conversions_skipped(),
            ):
                exported, is_free = export_model(flat, inputs, batch, free_sizes)
            (structure,) = flat.structures
        if free_sizes:
            warn_of_fixed(exported, inputs)
        alias_dropouts(exported.graph_module)
        module = module_of(exported)
        if not functionalize(module.graph):
            shield_inputs(exported.graph_module)
            with shapes_alone():
                module = module_of(exported.run_decompositions({}))
        canonicalize(module.graph)
        write_out(module.graph)
        contract_by_products(module.graph)
        fold_constants(module)
        add_batch_axes(module.graph)
        check_capture(flat, module, example, second)
    if not is_free:
        batch = Batch((None,) * len(batch.inputs), (None,) * len(batch.outputs))
    signature = dataclasses.replace(signature, outputs=structure)
    return Program(module, inputs, batch, signature, origin=origin)


def _call(model: nn.Module, inputs: Any, kwargs: Mapping[str, Any]) -> Call:
    """The call that an example stands for."""
    if isinstance(inputs, Mapping) and not kwargs:
        return call_of(model, inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), dict(kwargs)


def unwrapped(model: object) -> nn.Module:
    """The module in what a user may hold; raises InputError for what is none, or cannot be exported."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # of torch.compile
        return unwrapped(inner)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a TorchScript module cannot be exported; give the nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give an nn.Module")
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError("the model is on the meta device and has no weights; load them first")
    return model


def _check_weights(model: nn.Module) -> None:
    """Raises InputError, with its name, for a weight that holds NaN or Inf; a frozen one may hold Inf."""
    for name, weight in model.named_parameters():
        if is_lazy(weight) or weight.isfinite().all():
            continue
        if weight.requires_grad or weight.isnan().any():
            raise InputError(f"{name} of the model holds NaN or Inf; load weights that are whole")


def float_on_cpu(model: nn.Module) -> nn.Module:
    """The model, or a copy in float32 on the CPU where it is of another float type or elsewhere."""
    tensors = [*model.parameters(), *model.buffers()]
    if all(
        t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors
    ):
        return model
    return copy.deepcopy(model).float().cpu()


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """A model in eval mode, and in its own again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _as_input_errors() -> Iterator[None]:
    """What the exporter raises as one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the model cannot be exported: {_cause(error)}") from error


def _tried_out(model: FlatModel, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The output tensors of the model on the example; raises InputError if it fails or has none."""
    try:
        found = outputs_of(model, inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise InputError(
            f"the model fails on inputs of shape {shapes}{_as_one(model.signature)}: {_cause(error)}"
        ) from error
    if not found:
        (given,) = model.structures
        raise InputError(f"the model returns {type(given).__name__} without a tensor; return its outputs")
    if any(one.is_floating_point() and bool(one.isnan().all()) for one in found if one.numel()):
        raise InputError("an output of the model is NaN on the example; check its weights and the inputs")
    return found


def _as_one(signature: Signature) -> str:
    """In words, that a dict is one argument: its keys may be meant to be names of parameters."""
    for name, value in signature.inputs.items():
        if isinstance(value, Mapping):
            names = ", ".join(parameter for parameter, _ in signature.parameters)
            keys = ", ".join(map(str, value))
            return f", given as one dict {name} with {keys}, as the model's parameters are {names}"
    return ""


def _cause(error: Exception) -> str:
    """One line: the error's first sentence, and the last line of code in it that is not a library's."""
    library = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    user = [frame for frame in frames if not frame.filename.startswith((library, ours, "<"))]
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    traced = re.findall(r"torch\.ops\.([\w.]+)\(", str(getattr(error, "partial_fx_graph", "")))
    operator_name = f" (operator {traced[-1]})" if traced else ""
    place = f", at {user[-1].filename}:{user[-1].lineno}: {user[-1].line}" if user else ""
    return f"{type(error).__name__}: {message}{operator_name}{place}"
