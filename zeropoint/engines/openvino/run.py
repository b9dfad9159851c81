"""Running OpenVINO artefacts: the ``.xml`` with the graph and the ``.bin`` with the weights."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.engines import seal
from zeropoint.engines.engine import KEPT, Run
from zeropoint.engines.openvino.package import core
from zeropoint.engines.openvino.target import DYNAMIC_GROUP
from zeropoint.engines.shapes import Shapes, by_shape, stand_ins


def files(path: Path) -> tuple[Path, ...]:
    """The graph and the weights."""
    return path, path.with_suffix(".bin")


def damage(path: Path) -> str | None:
    """What is wrong with graph or weights by their digest."""
    return seal.damage(files(path), seal.xml_seal())


def settings(path: Path) -> dict[str, Any]:
    """OpenVINO's configuration for an artefact, by its method."""
    return _configuration(metadata(path)["zeropoint_method"])


def _configuration(method: str) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        # OpenVINO uses bfloat16 by default if the processor has it; float32 has to mean float32.
        "INFERENCE_PRECISION_HINT": "bf16" if method == "bf16" else "f32",
        # By default OpenVINO quantizes the inputs of all integer weights: weight-only with 8 bits has 45 dB
        # of SQNR then, and 128 dB without.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": DYNAMIC_GROUP if method == "dynamic" else 0,
    }


def metadata(path: Path) -> dict[str, str]:
    """What the file says of its Program."""
    entries = ElementTree.parse(path).find("./rt_info/zeropoint")
    return {
        f"zeropoint_{entry.tag}": entry.get("value", "") for entry in (() if entries is None else entries)
    }


def example_inputs(path: Path, batch_size: int) -> tuple[Tensor, ...] | None:
    """Inputs of the shapes and types in the graph; None if a size other than the batch is free."""
    inputs = []
    for node in core().read_model(path).inputs:
        sizes = [size.get_length() if size.is_static else None for size in node.get_partial_shape()]
        inputs.append((sizes, node.element_type.to_dtype()))
    return stand_ins(inputs, batch_size)


def load(path: Path, threads: int, kept: int = KEPT) -> Run:
    """The artefact as a callable from tensors to a tuple of tensors."""
    compile_for = compiler(path, threads)

    def compile(shapes: Shapes | None) -> Run:
        request = compile_for(shapes).create_infer_request()

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            results = request.infer([tensor.detach().numpy() for tensor in inputs], share_inputs=True)
            return tuple(torch.from_numpy(result) for result in results.values())

        return run

    return by_shape(compile, kept)


def compiler(
    path: Path, threads: int, weights: Path | None = None, **more: Any
) -> Callable[[Shapes | None], Any]:
    """A function that compiles the artefact for given shapes, or for all; ``more`` is configuration."""
    model = core().read_model(path, weights or path.with_suffix(".bin"))
    free = [node.get_partial_shape() for node in model.inputs]
    method = model.get_rt_info(["zeropoint", "method"]).astype(str)
    configuration = more | _configuration(method) | {"INFERENCE_NUM_THREADS": threads}

    def compile_for(shapes: Shapes | None) -> Any:
        try:
            # With free sizes ShuffleNetV2 is 27% slower, MobileNetV3 12%, ResNet-18 2%.
            model.reshape(dict(enumerate(free if shapes is None else map(list, shapes))))
            return core().compile_model(model, "CPU", configuration)
        except RuntimeError:  # some recurrent layers compile with free sizes only
            model.reshape(dict(enumerate(free)))
            return core().compile_model(model, "CPU", configuration)

    return compile_for
