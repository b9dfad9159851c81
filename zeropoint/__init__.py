"""zeropoint: quantize a PyTorch model every way that counts, and measure what each way costs and gains."""

from importlib.metadata import version

from zeropoint.capture import capture
from zeropoint.compare import compare
from zeropoint.data import Loaders
from zeropoint.engines import Runner, compile
from zeropoint.errors import InputError
from zeropoint.measure.benchmark import benchmark
from zeropoint.measure.evaluate import Evaluation, evaluate
from zeropoint.measure.latency import Latency
from zeropoint.methods import quantize
from zeropoint.options import Options
from zeropoint.program import Program, load
from zeropoint.results import Results

__version__ = version("zeropoint")
__all__ = [
    "Evaluation",
    "InputError",
    "Latency",
    "Loaders",
    "Options",
    "Program",
    "Results",
    "Runner",
    "benchmark",
    "capture",
    "compare",
    "compile",
    "evaluate",
    "load",
    "quantize",
]
