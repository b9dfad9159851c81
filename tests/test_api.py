"""The public API: its names whatever was imported before, and what the package never imports."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import Residual, images, randomized

import zeropoint as zp

PACKAGE = Path(zp.__file__).parent
HOMES = {
    "capture": "zeropoint.graph.capture",
    "quantize": "zeropoint.quantization",
    "quantize_parts": "zeropoint.parts.quantize",
    "load_parts": "zeropoint.parts.result",
    "Parts": "zeropoint.parts.result",
    "load": "zeropoint.graph.program",
    "inspect": "zeropoint.inspection.read",
    "compile": "zeropoint.engines",
    "evaluate": "zeropoint.measure.evaluate",
    "benchmark": "zeropoint.measure.benchmark",
    "benchmark_pair": "zeropoint.measure.benchmark",
    "fastest_engine": "zeropoint.tuning.choose",
    "fastest_target": "zeropoint.tuning.choose",
    "compare": "zeropoint.comparison.compare",
    "diagnose": "zeropoint.diagnosis.diagnose",
    "fixed": "zeropoint.diagnosis.diagnose",
    "Diagnosis": "zeropoint.diagnosis.diagnose",
    "train_quantized": "zeropoint.quantization",
    "export": "zeropoint.exports.onnx",
    "Exported": "zeropoint.exports.onnx",
    "ship": "zeropoint.shipping.ship",
    "ship_run": "zeropoint.shipping.ship",
    "verify": "zeropoint.shipping.check",
    "Benchmark": "zeropoint.measure.benchmark",
    "BenchmarkPair": "zeropoint.measure.benchmark",
    "ChangedSample": "zeropoint.measure.changed",
    "Choice": "zeropoint.tuning.choose",
    "Evaluation": "zeropoint.measure.evaluate",
    "InputError": "zeropoint.errors",
    "Inspection": "zeropoint.inspection.facts",
    "Latency": "zeropoint.measure.latency",
    "Loaders": "zeropoint.data.loaders",
    "Options": "zeropoint.targets.options",
    "Program": "zeropoint.graph.program",
    "TrainingOptions": "zeropoint.training.options",
    "Results": "zeropoint.measure.results",
    "Runner": "zeropoint.engines",
    "Budget": "zeropoint.tuning.budget",
    "Frontier": "zeropoint.tuning.frontier",
    "tune": "zeropoint.tuning.search",
}


def python(code: str) -> str:
    """What ``code`` prints in a Python of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_every_public_name_is_the_right_object():
    assert set(zp.__all__) == HOMES.keys()
    for name, home in HOMES.items():
        value = getattr(zp, name)
        assert inspect.isfunction(value) or inspect.isclass(value)
        assert (value.__module__, value.__name__) == (home, name)
        assert value.__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'zeropoint' has no attribute 'quantise'"):
        _ = zp.quantise


BEFORE = (
    "import zeropoint.graph.capture, zeropoint.comparison.compare, zeropoint.cli",
    "from zeropoint.comparison.compare import compare",
    "from zeropoint import *",
    "import zeropoint; zeropoint.compare; import zeropoint.comparison.compare",
)
FORKS = """
import os, torch
for before in {before}:
    if not os.fork():  # which has imported torch, and nothing of zeropoint
        exec(before)
        import zeropoint
        print({{type(getattr(zeropoint, name)).__name__ for name in zeropoint.__all__}}, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_names_do_not_depend_on_what_was_imported_before():
    kinds = python(FORKS.format(before=BEFORE)).splitlines()
    assert [ast.literal_eval(line) for line in kinds] == [{"function", "type"}] * len(BEFORE)


@pytest.mark.slow
def test_importing_needs_no_torch_until_a_name_is_used():
    loaded = "print('torch' in sys.modules)"
    code = f"import sys, zeropoint, zeropoint.cli; {loaded}; zeropoint.capture; {loaded}"
    assert python(code).split() == ["False", "True"]


def test_nothing_imports_torch_ao():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                modules = [ast.unparse(node)]
            else:
                continue
            for module in modules:
                assert not module.startswith(("torch.ao", "torch.quantization")), f"{file}: {module}"


@pytest.mark.slow
def test_using_the_package_loads_no_more_of_torch_ao_than_torch_itself():
    prefixes = ("torch.ao.quantization", "torch.quantization")
    listed = f"{{name for name in sys.modules if name.startswith({prefixes})}}"
    modules = [
        "graph.capture",
        "cli",
        "comparison.compare",
        "methods",
        "graph.program",
        "report.table",
        "training",
    ]
    # torch.export and the compiler bring some along; what is quantized is quantized without.
    code = f"import sys, torch, torch._inductor.decomposition, torch.export\nbefore = {listed}"
    ours = ", ".join(f"zeropoint.{module}" for module in modules)
    assert python(f"{code}\nimport {ours}\nprint(sorted({listed} - before))") == "[]\n"


@pytest.mark.slow
def test_the_readme_way_through(tmp_path: Path):
    model, data = randomized(Residual()), [images(8), images(8, seed=1)]
    program = zp.capture(model, data[0])
    quantized = zp.quantize(program, method="static", calibration=data)
    quantized.save(tmp_path / "m.pt2")
    runner = zp.compile(zp.load(tmp_path / "m.pt2"), engine="openvino", threads=1)
    assert isinstance(runner, zp.Runner)
    labelled = [(batch, torch.zeros(8, dtype=torch.int64)) for batch in data]
    evaluation = zp.evaluate(runner, labelled, float32=program)
    assert isinstance(evaluation, zp.Evaluation)
    assert evaluation.accuracy.images == 16
    assert evaluation.fidelity is not None
    assert evaluation.fidelity.sqnr_db > 20
    result = zp.benchmark(runner, data[0], seconds=0.01)
    assert isinstance(result, zp.Benchmark)
    assert isinstance(result.latency_ms, zp.Latency)
    assert 0 < result.latency_ms.p50 <= result.latency_ms.p90 <= result.latency_ms.p99
