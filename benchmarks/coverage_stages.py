"""What is measured of one architecture, stage by stage, in a process of its own.

Seconds are those of the processor, not of the clock: other work on the machine does not count.
"""

import contextlib
import copy
import functools
import logging
import multiprocessing
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import fresh
import peers
import torch
from architectures import architectures
from architectures.spec import Architecture, call
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import zeropoint as zp
from zeropoint.errors import InputError, first_line
from zeropoint.graph.program import Program
from zeropoint.graph.quantizers import quantizers
from zeropoint.measure.integers import integers
from zeropoint.measure.parity import ROUNDING_FLOOR_DB
from zeropoint.numerics.sqnr import sqnr_db

Record = dict[str, Any]
Tensors = tuple[Tensor, ...]
CAPTURE = "capture"
ITEMS, CALIBRATION, EVALUATION = 4, 8, 4  # items of a batch, and batches
# Small inputs have more batches to calibrate on, until there are as many values: the range of normal noise is
# not known from a few dozens of them.
VALUES, MOST = 1 << 13, 128
BEST_DB = 200.0  # of equal outputs
NOISE = 1e-3  # of the weights, for the sensitivity


class Flat(nn.Module):
    """The network with positional tensors in, and all its float tensors out."""

    def __init__(self, network: nn.Module, names: Sequence[str] | None) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *inputs: Tensor) -> Tensors:
        """The float tensors of the output, in order."""
        named = inputs if self.names is None else dict(zip(self.names, inputs, strict=True))
        output = call(self.network, named)
        leaves = tree_leaves(dict(output) if isinstance(output, dict) else output)
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


class Case:
    """A network with its data and the outputs that are right."""

    def __init__(
        self, network: nn.Module, calibration: Sequence[Tensors], evaluation: Sequence[Tensors]
    ) -> None:
        self.network, self.calibration, self.evaluation = network, calibration, evaluation
        self.wanted = self.outputs(self.network)
        self.transformer = any("attention" in type(part).__name__.lower() for part in network.modules())
        self.program: Program | None = None

    @torch.no_grad()
    def outputs(self, run: Callable[..., Sequence[Tensor]]) -> list[Tensor]:
        """Every output, of all evaluation batches."""
        batches = [[torch.as_tensor(one).flatten() for one in run(*inputs)] for inputs in self.evaluation]
        return [torch.cat(parts) for parts in zip(*batches, strict=True)]

    def sqnr(self, found: list[Tensor]) -> float:
        """Of the output that is the worst, in dB."""
        if [one.shape for one in found] != [one.shape for one in self.wanted]:
            raise ValueError(f"{len(found)} outputs of other shapes than the model's {len(self.wanted)}")
        found_db = [sqnr_db(*pair) for pair in zip(self.wanted, found, strict=True)]
        return min(min(db, BEST_DB) if db > -BEST_DB else -BEST_DB for db in found_db)  # the last for NaN


def case_of(architecture: Architecture) -> Case:
    """The network of an architecture, with noise for data."""
    names = None if isinstance(architecture.inputs, tuple) else list(architecture.inputs)
    network = Flat(architecture.network(), names).eval()
    values = max(tensor.numel() for tensor in _tensors(architecture.sample(ITEMS, 0)))
    batches = min(max(CALIBRATION, -(-VALUES // values)), MOST)
    calibration = [_tensors(architecture.sample(ITEMS, seed)) for seed in range(batches)]
    seeds = range(1_000_000, 1_000_000 + EVALUATION)
    return Case(network, calibration, [_tensors(architecture.sample(ITEMS, seed)) for seed in seeds])


def _tensors(inputs: Tensors | dict[str, Tensor]) -> Tensors:
    return inputs if isinstance(inputs, tuple) else tuple(inputs.values())


def capture(case: Case) -> Record:
    """Captures the network, and measures that."""
    started = time.process_time()
    case.program = zp.capture(case.network, case.calibration[0])
    seconds = time.process_time() - started
    weights = sum(parameter.numel() for parameter in case.network.parameters())
    return {"seconds": seconds, "parameters": weights, "sensitivity_db": _sensitivity(case)}


@torch.no_grad()
def _sensitivity(case: Case) -> float:
    """SQNR of the float network with weights that are off by NOISE: 60 dB if it does not amplify errors."""
    generator, noisy = torch.Generator().manual_seed(0), copy.deepcopy(case.network)
    for parameter in noisy.parameters():
        if parameter.is_floating_point():
            parameter.mul_(1 + NOISE * torch.randn(parameter.shape, generator=generator))
    return case.sqnr(case.outputs(noisy))


def on_engine(case: Case, engine: str) -> Record:
    """Quantizes what was captured and runs it on an engine, and measures that; in parts, if it was not."""
    if case.program is None:
        return _in_parts(case, engine)
    batches = [(inputs, None) for inputs in case.calibration]  # without labels
    started = time.process_time()
    quantized = zp.quantize(case.program, "static", calibration=batches, target=engine)
    seconds = time.process_time() - started
    simulated = case.sqnr(case.outputs(quantized))
    record: Record = {
        "seconds": seconds,
        "simulated_db": simulated,
        "quantizers": len(list(quantizers(quantized.module))),
    }
    started = time.process_time()
    runner = zp.compile(quantized, engine, batch_size=ITEMS, threads=1, verify=False)
    record["compile_seconds"] = time.process_time() - started
    record["sqnr_db"] = case.sqnr(case.outputs(runner))
    record["parity_db"] = min(simulated, ROUNDING_FLOOR_DB) - min(record["sqnr_db"], ROUNDING_FLOOR_DB)
    found = integers(quantized, runner)
    return record | {"int8_share": found.share, "fallbacks": len(found.fallbacks)}


def _in_parts(case: Case, engine: str) -> Record:
    started = time.process_time()
    parts = zp.quantize_parts(case.network, case.calibration, engine=engine, threads=1)
    seconds = time.process_time() - started
    share = sum(part.share for part in parts.parts)
    sqnr_db = case.sqnr(case.outputs(parts.model))
    return {"seconds": seconds, "parts": len(parts.parts), "share": share, "sqnr_db": sqnr_db}


def _nncf(case: Case) -> Record:
    import openvino

    started = time.process_time()
    model = peers.nncf_static(case.network, case.calibration[0], case.calibration, case.transformer)
    seconds = time.process_time() - started
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
    outputs = case.outputs(lambda *inputs: list(compiled([one.numpy() for one in inputs]).values()))
    return {"seconds": seconds, "sqnr_db": case.sqnr(outputs)}


def _quantize_static(case: Case) -> Record:
    import onnxruntime

    started = time.process_time()
    model = peers.quantize_static(case.network, case.calibration[0], case.calibration)
    seconds = time.process_time() - started
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Any]:
        return session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=False)})

    return {"seconds": seconds, "sqnr_db": case.sqnr(case.outputs(run))}


def _fx(case: Case) -> Record:
    return _in_pytorch(case, functools.partial(peers.fx_static, backend="x86"))


def _pt2e(case: Case) -> Record:
    return _in_pytorch(case, peers.pt2e_static)


def _in_pytorch(case: Case, quantize: Callable[..., nn.Module]) -> Record:
    started = time.process_time()
    model = quantize(case.network, case.calibration[0], case.calibration)
    seconds = time.process_time() - started
    return {"seconds": seconds, "sqnr_db": case.sqnr(case.outputs(model))}


Peer = Callable[[Case], Record]
PEERS: dict[str, Peer] = {"nncf": _nncf, "quantize_static": _quantize_static}
MORE_PEERS: dict[str, Peer] = {"fx": _fx, "pt2e": _pt2e}


def measure(name: str, stages: Sequence[str], seconds: float, memory: float) -> Record:
    """The record of an architecture: for each stage what was found, or its error.

    Every stage has so many seconds; the process has so many bytes, and a new one goes on after it dies.
    """
    record: Record = {"name": name}
    left = list(stages)
    while left:
        process, receiver = _start(name, left, memory)
        while left:
            answer = _receive(process, receiver, seconds)
            record[left.pop(0)] = answer
            if "died" in answer:
                break
        process.kill()
        process.join()
        if record.get(CAPTURE, {}).get("died"):  # a process that goes on captures first
            left = [stage for stage in left if stage in {*PEERS, *MORE_PEERS}]
    return record


def _start(name: str, stages: Sequence[str], memory: float) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("forkserver")
    # Python 3.11.7's server does not know sys.path, and leaves out in silence what it cannot import.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context.set_forkserver_preload(["coverage_preload", "coverage_stages"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, name, list(stages), memory))
    process.start()
    sender.close()
    return process, receiver


def _receive(process: Any, receiver: Connection, seconds: float) -> Record:
    try:
        if not receiver.poll(seconds):
            return {"error": f"took more than {seconds:.0f} seconds", "died": True}
        return receiver.recv()
    except EOFError:
        process.join()
        return {"error": f"its process died: exit code {process.exitcode}", "died": True}


def _serve(sender: Connection, name: str, stages: list[str], memory: float) -> None:
    fresh.LOG.parent.mkdir(exist_ok=True)
    with fresh.LOG.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    torch.set_num_threads(1)
    print(f"== {name}", flush=True)
    case = case_of(architectures()[name])
    if CAPTURE not in stages:
        with contextlib.suppress(Exception):
            capture(case)
    steps = {CAPTURE: capture, **PEERS, **MORE_PEERS}
    for stage in stages:
        try:
            sender.send(steps[stage](case) if stage in steps else on_engine(case, stage))
        except Exception as error:
            traceback.print_exc()
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            sender.send({"error": f"{kind}{first_line(error)}"[:300]})
