"""zeropoint: quantize a PyTorch model every way that counts, and measure what each way costs and gains."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeropoint.comparison.compare import compare
    from zeropoint.data import Loaders
    from zeropoint.diagnosis.diagnose import Diagnosis, diagnose, fixed
    from zeropoint.engines import Runner, compile
    from zeropoint.errors import InputError
    from zeropoint.exports.onnx import Exported, export
    from zeropoint.graph.capture import capture
    from zeropoint.graph.program import Program, load
    from zeropoint.inspection.facts import Inspection
    from zeropoint.inspection.read import inspect
    from zeropoint.measure.benchmark import Benchmark, BenchmarkPair, benchmark, benchmark_pair
    from zeropoint.measure.changed import ChangedSample
    from zeropoint.measure.evaluate import Evaluation, evaluate
    from zeropoint.measure.latency import Latency
    from zeropoint.measure.results import Results
    from zeropoint.parts.quantize import quantize_parts
    from zeropoint.parts.result import Parts, load_parts
    from zeropoint.quantization import quantize, train_quantized
    from zeropoint.shipping.check import verify
    from zeropoint.shipping.ship import ship, ship_run
    from zeropoint.targets.options import Options
    from zeropoint.training.options import TrainingOptions
    from zeropoint.tuning.budget import Budget
    from zeropoint.tuning.choose import Choice, fastest_engine, fastest_target
    from zeropoint.tuning.frontier import Frontier
    from zeropoint.tuning.search import tune

# Where each public name lives. Imported when first used: `zeropoint --help` need not wait for torch.
_HOMES = {
    "Benchmark": "zeropoint.measure.benchmark",
    "BenchmarkPair": "zeropoint.measure.benchmark",
    "Budget": "zeropoint.tuning.budget",
    "ChangedSample": "zeropoint.measure.changed",
    "Choice": "zeropoint.tuning.choose",
    "Diagnosis": "zeropoint.diagnosis.diagnose",
    "Exported": "zeropoint.exports.onnx",
    "Evaluation": "zeropoint.measure.evaluate",
    "Frontier": "zeropoint.tuning.frontier",
    "InputError": "zeropoint.errors",
    "Inspection": "zeropoint.inspection.facts",
    "Latency": "zeropoint.measure.latency",
    "Loaders": "zeropoint.data.loaders",
    "Options": "zeropoint.targets.options",
    "Parts": "zeropoint.parts.result",
    "Program": "zeropoint.graph.program",
    "TrainingOptions": "zeropoint.training.options",
    "Results": "zeropoint.measure.results",
    "Runner": "zeropoint.engines",
    "benchmark": "zeropoint.measure.benchmark",
    "benchmark_pair": "zeropoint.measure.benchmark",
    "capture": "zeropoint.graph.capture",
    "compare": "zeropoint.comparison.compare",
    "compile": "zeropoint.engines",
    "diagnose": "zeropoint.diagnosis.diagnose",
    "export": "zeropoint.exports.onnx",
    "evaluate": "zeropoint.measure.evaluate",
    "fastest_engine": "zeropoint.tuning.choose",
    "fastest_target": "zeropoint.tuning.choose",
    "inspect": "zeropoint.inspection.read",
    "load": "zeropoint.graph.program",
    "load_parts": "zeropoint.parts.result",
    "fixed": "zeropoint.diagnosis.diagnose",
    "quantize": "zeropoint.quantization",
    "quantize_parts": "zeropoint.parts.quantize",
    "ship": "zeropoint.shipping.ship",
    "ship_run": "zeropoint.shipping.ship",
    "train_quantized": "zeropoint.quantization",
    "tune": "zeropoint.tuning.search",
    "verify": "zeropoint.shipping.check",
}

__all__ = [  # noqa: RUF022  # the order of use
    "capture",
    "quantize",
    "quantize_parts",
    "train_quantized",
    "load",
    "load_parts",
    "inspect",
    "diagnose",
    "fixed",
    "compile",
    "evaluate",
    "benchmark",
    "benchmark_pair",
    "fastest_engine",
    "fastest_target",
    "compare",
    "tune",
    "ship",
    "ship_run",
    "verify",
    "export",
    "Benchmark",
    "BenchmarkPair",
    "Budget",
    "ChangedSample",
    "Choice",
    "Diagnosis",
    "Evaluation",
    "Exported",
    "Frontier",
    "InputError",
    "Inspection",
    "Latency",
    "Loaders",
    "Options",
    "Parts",
    "Program",
    "TrainingOptions",
    "Results",
    "Runner",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("zeropoint")
    if name not in _HOMES:
        raise AttributeError(f"module 'zeropoint' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
