"""The kernels that OpenVINO runs an artefact with: which compute in integers, and how long each takes."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zeropoint.engines.openvino.kernels import Timed
from zeropoint.engines.openvino.rewrites import is_product
from zeropoint.engines.openvino.run import compiler
from zeropoint.graph.operators import SOFTMAX, WEIGHTED, aten, family, weighted
from zeropoint.graph.program import Program


def integer_operators(program: Program, path: Path) -> set[str]:
    """The names of the Program's nodes that the artefact computes in integers, by its runtime model."""
    shapes = tuple(tuple(tensor.shape) for tensor in program.example_inputs)
    nodes = [node for node in program.module.graph.nodes if node.target in {*WEIGHTED, aten.bmm.default}]
    before = dict(itertools.pairwise([node.name for node in nodes if is_product(node)][::-1]))
    kernels = compiler(path, 1)(shapes).get_runtime_model().get_ordered_ops()
    origins, found = _origins(kernels, program), set[str]()
    named = {name for names in origins.values() for name in names}
    softmaxes = {node.name for node in program.module.graph.nodes if node.target in SOFTMAX}
    for kernel in kernels:
        layers = origins[kernel.get_friendly_name()]
        if _computes_integers(kernel, program):
            found.update(layers)
            # An attention is one kernel, in which its first product has lost its name.
            if softmaxes & {*layers}:
                found |= {before[layer] for layer in layers if layer in before} - named
        elif _kind(kernel) == "Subgraph":  # whose precision is that of its first input
            found.update(map(_node, filter(_BEHIND_INTEGERS.search, _layers(kernel))))
    return {node.name for node in nodes} & found


def layer_seconds(
    program: Program, path: Path, threads: int, calls: int
) -> list[tuple[float, tuple[str, ...]]]:
    """The mean time of every kernel over the calls, and the names of the Program's nodes in the kernel.

    OpenVINO counts whole microseconds: less than one counts as half of one.
    """
    timer = _timer(program, path, threads)
    origins = _origins(timer.kernels, program)
    timer.run()
    timer.seconds()  # the first call takes several times as long
    for _ in range(calls):
        timer.run()
    return [(max(seconds, 5e-7), origins.get(name, ())) for name, seconds in timer.seconds().items()]


def timed_convolutions(program: Program, path: Path, weights: Path) -> Timed:
    """The int8 convolutions of an artefact, on as many threads as PyTorch has."""
    timer = _timer(program, path, torch.get_num_threads(), weights)
    kernels, names = {}, {}
    for kernel in timer.kernels:
        facts = kernel.get_rt_info()
        name = next((name for name in _layers(kernel) if name.endswith("Convolution")), None)
        if name and _kind(kernel).endswith("Convolution") and _computes_integers(kernel, program):
            kernels[name] = facts["primitiveType"].astype(str)
            names[kernel.get_friendly_name()] = name

    def seconds() -> dict[str, float]:
        taken = {names.get(kernel, kernel): taken for kernel, taken in timer.seconds().items()}
        return dict.fromkeys(kernels, 0.0) | taken  # what works on constants alone is not run in a call

    return Timed(kernels, timer.run, seconds)


def _layers(kernel: Any) -> list[str]:
    """The names of the artefact's layers that a kernel was made of."""
    names: list[str] = kernel.get_rt_info()["originalLayersNames"].astype(str).split(",")
    return names


def _node(layer: str) -> str:
    """The name of the Program's node that one of the artefact's layers was made of."""
    return layer.partition("/")[0]


def _kind(kernel: Any) -> str:
    return str(kernel.get_rt_info()["layerType"].astype(str))


def _origins(kernels: list[Any], program: Program) -> dict[str, tuple[str, ...]]:
    """By the name of each kernel, in the order in which they run, the names of the Program's nodes in it.

    OpenVINO calls some layers by the scale that it moves behind them. They are told by their order among the
    layers that no kernel is called by, and by how many channels they give.
    """
    origins = {kernel.get_friendly_name(): tuple(map(_node, _layers(kernel))) for kernel in kernels}
    named = {name for names in origins.values() for name in names}
    missing, nameless = defaultdict(list), defaultdict(list)
    layers = {node.name: node for node in program.module.graph.nodes if weighted(node)}
    for name in (name for name in layers if name not in named):
        kind = "FullyConnected" if family(layers[name]) == "linear" else "Convolution"
        missing[kind, str(layers[name].meta["val"].shape[_CHANNELS[kind]])].append(name)
    for kernel in kernels:
        name, kind = kernel.get_friendly_name(), _kind(kernel).removeprefix("Group")
        if kind in _CHANNELS and not layers.keys() & origins[name]:
            channels = kernel.get_output_partial_shape(0)[_CHANNELS[kind]]
            nameless[kind, str(channels)].append(name)
    for sort, names in nameless.items():
        if len(missing[sort]) == len(names):
            origins |= {
                name: (*origins[name], layer) for name, layer in zip(names, missing[sort], strict=True)
            }
    return origins


# Kinds of kernels of layers, and the axis of the channels that they give.
_CHANNELS = {"FullyConnected": -1, "Convolution": 1}
# What OpenVINO moves behind a matrix product that it does in integers.
_BEHIND_INTEGERS = re.compile("/MatMul/Dequantization(Subtract|Multiply)$")


def _computes_integers(kernel: Any, program: Program) -> bool:
    facts = kernel.get_rt_info()
    # For a float layer with integer weights, and for a layer whose inputs OpenVINO quantizes itself, the
    # precision is that of the weights.
    is_float = facts["primitiveType"].astype(str).endswith("_f32") and program.method != "dynamic"
    return facts["runtimePrecision"].astype(str) in ("u8", "i8") and not is_float


@dataclass(frozen=True)
class _Timer:
    """A compiled artefact: its kernels, a call of it, and what its calls took.

    ``seconds`` gives, by the name of each kernel, the mean over the calls since ``seconds`` was last called.
    """

    kernels: list[Any]
    run: Callable[[], None]
    seconds: Callable[[], dict[str, float]]


def _timer(program: Program, path: Path, threads: int, weights: Path | None = None) -> _Timer:
    """An artefact compiled for the Program's example inputs, to call on them."""
    shapes = tuple(tuple(tensor.shape) for tensor in program.example_inputs)
    compiled = compiler(path, threads, weights, PERF_COUNT=True)(shapes)
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

    return _Timer(compiled.get_runtime_model().get_ordered_ops(), run, seconds)


def mean_since(mean: float, calls: int, earlier: float, before: int) -> float:
    """The mean of the calls since ``before``, from the mean of all calls and the ``earlier`` mean.

    OpenVINO's counters are means over all calls since compilation, in whole microseconds.
    """
    return (mean * calls - earlier * before) / (calls - before)
