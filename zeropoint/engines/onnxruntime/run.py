"""Running ``.onnx`` artefacts on ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.engines import seal
from zeropoint.engines.engine import KEPT, Run
from zeropoint.engines.shapes import Shapes, by_shape, stand_ins

# The fused addition and layer norm takes nine times as long as the two alone: 19% on a BERT-base encoder.
DISABLED = ["SkipLayerNormFusion"]


def files(path: Path) -> tuple[Path, ...]:
    """The file, which holds the weights, too."""
    return (path,)


def damage(path: Path) -> str | None:
    """What is wrong with the file by its digest."""
    return seal.damage(files(path), seal.onnx_seal())


def settings(path: Path) -> dict[str, Any]:
    """The arguments of a session, the same for all artefacts."""
    return {"disabled_optimizers": DISABLED}


def metadata(path: Path) -> dict[str, str]:
    """What the file says of its Program."""
    import onnx

    entries = onnx.load(path, load_external_data=False).metadata_props
    return {str(entry.key): str(entry.value) for entry in entries}


def example_inputs(path: Path, batch_size: int) -> tuple[Tensor, ...] | None:
    """Inputs of the shapes and types in the graph; None if a size other than the batch is free."""
    import onnx

    inputs = []
    for value in onnx.load(path, load_external_data=False).graph.input:
        tensor = value.type.tensor_type
        sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        inputs.append((sizes, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    return stand_ins(inputs, batch_size)


def load(path: Path, threads: int, kept: int = KEPT) -> Run:
    """The artefact as a callable from tensors to a tuple of tensors."""
    import onnx

    inputs = onnx.load(path, load_external_data=False).graph.input
    names = [value.name for value in inputs]
    free = [[size.dim_param for size in value.type.tensor_type.shape.dim] for value in inputs]

    def compile(shapes: Shapes | None) -> Run:
        sizes = {
            name: size
            for dimensions, shape in zip(free, shapes or (), strict=shapes is not None)
            for name, size in zip(dimensions, shape, strict=True)
            if name
        }
        made = session(path, sizes, intra_op_num_threads=threads, inter_op_num_threads=1)

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            feed: dict[str, Any] = {
                name: tensor.detach().numpy() for name, tensor in zip(names, inputs, strict=True)
            }
            return tuple(torch.from_numpy(result) for result in made.run(None, feed))

        return run

    return by_shape(compile, kept)


def session(path: Path, sizes: Mapping[str, int] | None = None, **options: object) -> Any:
    """A session on an artefact, its free dimensions fixed to ``sizes`` by name, with these SessionOptions."""
    import onnxruntime

    configured = onnxruntime.SessionOptions()
    configured.log_severity_level = 3
    for name, value in options.items():
        setattr(configured, name, value)
    for name, size in (sizes or {}).items():
        configured.add_free_dimension_override_by_name(name, size)
    return onnxruntime.InferenceSession(
        path, configured, providers=["CPUExecutionProvider"], **settings(path)
    )
