"""A plain ``.pt2`` of ``torch.export.save``, opened as a module that can be captured; no code in it runs."""

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from zeropoint.errors import InputError, first_line
from zeropoint.graph import archive
from zeropoint.models.source import Source, like


def source(path: Path) -> Source:
    """The model in the file, and inputs like those that it was exported with.

    Raises InputError for a file that is missing, damaged or of another torch, that holds what could be code,
    or that was saved without sample inputs which can be read as plain tensors.
    """
    checked, sample = archive.read_plain(path)
    with contextlib.suppress(ModuleNotFoundError):  # which has the classes of its models' outputs
        if b"transformers." in checked.read():
            import transformers  # noqa: F401
    checked.seek(0)
    try:
        exported = torch.export.load(checked)
        module = exported.module(check_guards=False)
    except Exception as error:
        fix = f"export the model again with this torch ({torch.__version__})"
        raise InputError(f"cannot load {path}: {first_line(error)}; {fix}") from error
    try:
        args, kwargs = torch.load(io.BytesIO(sample), weights_only=True)
    except Exception as error:
        fix = "export it again, with tensors as arguments"
        raise InputError(f"{path} has no sample inputs that can be read safely; {fix}") from error
    assert isinstance(module, GraphModule)
    del module.train, module.eval  # torch has them raise an error; there is nothing to switch
    signature = exported.module_call_graph[0].signature
    names = [] if signature is None else list(signature.forward_arg_names or ())[: len(args)]
    network, example = (
        (_ByName(module, names), dict(zip(names, args, strict=True)) | kwargs) if kwargs else (module, args)
    )
    values = [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"]
    inputs = values[len(values) - len(exported.graph_signature.user_inputs) :]
    tensors = [value for value in inputs if isinstance(value, Tensor) and value.dim()]
    free = bool(tensors) and all(isinstance(value.shape[0], torch.SymInt) for value in tensors)
    return Source(network, like(example, free_batch=free))


class _ByName(nn.Module):
    """A module whose first arguments are positional alone, called by the names of all."""

    def __init__(self, module: GraphModule, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, **arguments: Any) -> Any:
        args = [arguments.pop(name) for name in self.names]
        return self.module(*args, **arguments)
