"""The rows of the benchmark: which tool builds which artefact, and which engine runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peers
from networks import TRANSFORMERS
from torch import Tensor, nn

import zeropoint as zp
from zeropoint import engines
from zeropoint.graph.program import Program

ZEROPOINT = "zeropoint"
COMPILER = ("torch._inductor",)
ONNX = ("onnx", "onnxscript", "onnxruntime.quantization")
OPENVINO = ("openvino",)
FX = ("torch.ao.quantization.quantize_fx",)
PT2E = (*COMPILER, "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
F32_HINT = "static, f32 hint"
BFLOAT16 = engines.named("openvino").unsupported("bf16") is None  # whether this processor has instructions
PACKAGES = {"torch": COMPILER, "onnxruntime": ONNX, "openvino": OPENVINO}


@dataclass(frozen=True)
class Artefact:
    """How a file is built: in memory, then on disk (see ``peers``); ``packages`` are imported first."""

    quantize: Callable[[nn.Module, Tensor, list[Tensor]], Any]
    save: Callable[[Any, Tensor, int, str], Path]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of the table. ``tool`` is the quantizer; it is empty for an engine without one."""

    tool: str
    method: str
    engine: str
    artefact: str
    load: Callable[[Path, int], peers.Call]

    @property
    def name(self) -> str:
        """The name of the row in results."""
        return " ".join(part for part in (self.tool, self.method, "→", self.engine) if part)

    @property
    def is_float(self) -> bool:
        """Whether the row computes without integers."""
        return self.method in ("fp32", "bf16")


def _program(method: str, engine: str, network: nn.Module, example: Tensor, data: list[Tensor]) -> Program:
    program = zp.capture(network, example[:1])
    if method == "fp32":
        return program
    return zp.quantize(program, method, calibration=data if method == "static" else None, target=engine)


def _save(engine: str, program: Program, inputs: Tensor, threads: int, stem: str) -> Path:
    return zp.compile(program, engine, threads=threads, batch_size=len(inputs), path=stem).artefact


def _load(engine: str, path: Path, threads: int) -> peers.Call:
    runner = engines.load_artefact(engine, path, threads)
    return runner


def artefacts(model: str) -> dict[str, Artefact]:
    """The artefacts of a model, by name."""
    ours = {
        f"zeropoint-{method}-{engine}": Artefact(
            partial(_program, method, engine), partial(_save, engine), PACKAGES[engine]
        )
        for method, engine in _methods(model)
    }
    nncf = partial(peers.nncf_static, transformer=model in TRANSFORMERS)
    return ours | {
        "nncf": Artefact(nncf, peers.save_openvino, (*OPENVINO, "nncf")),
        "quantize_static": Artefact(peers.quantize_static, peers.save_onnx, ONNX),
        "fx-x86": Artefact(partial(peers.fx_static, backend="x86"), peers.save_jit, FX),
        "fx-onednn": Artefact(partial(peers.fx_static, backend="onednn"), peers.save_jit, FX),
        "pt2e": Artefact(peers.pt2e_static, peers.save_compiled, PT2E),
        "eager": Artefact(peers.eager_float, peers.save_eager),
        "compiler-fp32": Artefact(peers.eager_float, peers.save_compiled, COMPILER),
        "compiler-bf16": Artefact(peers.bfloat16, peers.save_compiled, COMPILER),
        "onnxruntime": Artefact(peers.onnx_float, peers.save_onnx, ONNX),
        "openvino": Artefact(peers.openvino_float, peers.save_openvino, OPENVINO),
    }


def rows(model: str) -> list[Row]:
    """The rows of a model: zeropoint's, those of other quantizers, and engines without one."""
    ours = [
        Row(ZEROPOINT, method, engine, f"zeropoint-{method}-{engine}", partial(_load, engine))
        for method, engine in _methods(model)
    ]
    openvino_f32 = partial(peers.load_openvino, precision="f32")
    openvino_bf16 = partial(peers.load_openvino, precision="bf16")
    found = [
        *ours,
        Row("NNCF", "static", "openvino", "nncf", peers.load_openvino),
        Row("NNCF", F32_HINT, "openvino", "nncf", openvino_f32),
        Row("quantize_static", "", "onnxruntime", "quantize_static", peers.load_onnxruntime),
        Row("FX", "x86", "torch.jit", "fx-x86", partial(peers.load_jit, backend="x86")),
        Row("FX", "onednn", "torch.jit", "fx-onednn", partial(peers.load_jit, backend="onednn")),
        Row("PT2E", "", "torch compiler", "pt2e", peers.load_compiled),
        Row("", "fp32", "torch eager", "eager", peers.load_eager),
        Row("", "fp32", "torch compiler", "compiler-fp32", peers.load_compiled),
        Row("", "bf16", "torch compiler", "compiler-bf16", peers.load_compiled),
        Row("", "fp32", "onnxruntime", "onnxruntime", peers.load_onnxruntime),
        Row("", "fp32", "openvino", "openvino", openvino_f32),
        Row("", "bf16", "openvino", "openvino", openvino_bf16),
    ]
    # Without bf16 instructions PyTorch is ten times slower in it, and OpenVINO computes in float32.
    return [row for row in found if BFLOAT16 or row.method not in ("bf16", F32_HINT)]


def _methods(model: str) -> list[tuple[str, str]]:
    quantized = ["static", "dynamic"] if model in TRANSFORMERS else ["static"]
    pairs = [(method, engine) for method in [*quantized, "fp32"] for engine in engines.NAMES]
    return [*pairs, ("bf16", "torch"), ("bf16", "openvino")] if BFLOAT16 else pairs
