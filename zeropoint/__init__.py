"""zeropoint: quantize a PyTorch model every way that counts, and measure what each way costs and gains."""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeropoint.capture import capture
    from zeropoint.choose import Choice, fastest_engine, fastest_target
    from zeropoint.compare import compare
    from zeropoint.data import Loaders
    from zeropoint.diagnosis.diagnose import Diagnosis, diagnose, mended
    from zeropoint.engines import Runner, compile
    from zeropoint.errors import InputError
    from zeropoint.inspection.facts import Inspection
    from zeropoint.inspection.read import inspect
    from zeropoint.measure.benchmark import Benchmark, BenchmarkPair, benchmark, benchmark_pair
    from zeropoint.measure.evaluate import Evaluation, evaluate
    from zeropoint.measure.latency import Latency
    from zeropoint.methods import quantize
    from zeropoint.options import Options
    from zeropoint.program import Program, load
    from zeropoint.results import Results
    from zeropoint.training.quantized import train_quantized
    from zeropoint.training.recipe import Recipe

# Where each public name lives. Imported when first used: `zeropoint --help` need not wait for torch.
_HOMES = {
    "Benchmark": "zeropoint.measure.benchmark",
    "BenchmarkPair": "zeropoint.measure.benchmark",
    "Choice": "zeropoint.choose",
    "Diagnosis": "zeropoint.diagnosis.diagnose",
    "Evaluation": "zeropoint.measure.evaluate",
    "InputError": "zeropoint.errors",
    "Inspection": "zeropoint.inspection.facts",
    "Latency": "zeropoint.measure.latency",
    "Loaders": "zeropoint.data",
    "Options": "zeropoint.options",
    "Program": "zeropoint.program",
    "Recipe": "zeropoint.training.recipe",
    "Results": "zeropoint.results",
    "Runner": "zeropoint.engines",
    "benchmark": "zeropoint.measure.benchmark",
    "benchmark_pair": "zeropoint.measure.benchmark",
    "capture": "zeropoint.capture",
    "compare": "zeropoint.compare",
    "compile": "zeropoint.engines",
    "diagnose": "zeropoint.diagnosis.diagnose",
    "evaluate": "zeropoint.measure.evaluate",
    "fastest_engine": "zeropoint.choose",
    "fastest_target": "zeropoint.choose",
    "inspect": "zeropoint.inspection.read",
    "load": "zeropoint.program",
    "mended": "zeropoint.diagnosis.diagnose",
    "quantize": "zeropoint.methods",
    "train_quantized": "zeropoint.training.quantized",
}

__all__ = [  # noqa: RUF022  # the order of use
    "capture",
    "quantize",
    "train_quantized",
    "load",
    "inspect",
    "diagnose",
    "mended",
    "compile",
    "evaluate",
    "benchmark",
    "benchmark_pair",
    "fastest_engine",
    "fastest_target",
    "compare",
    "Benchmark",
    "BenchmarkPair",
    "Choice",
    "Diagnosis",
    "Evaluation",
    "InputError",
    "Inspection",
    "Latency",
    "Loaders",
    "Options",
    "Program",
    "Recipe",
    "Results",
    "Runner",
]


class _Package(types.ModuleType):
    """Imports public names when first used, and keeps submodules like ``capture`` off functions' names."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'zeropoint' has no attribute '{name}'")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):  # the import system sets submodules
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
