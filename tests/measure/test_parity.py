import dataclasses
import math
from pathlib import Path

import pytest
from networks import images, options, residual

from zeropoint.engines import find
from zeropoint.graph import edits as fx
from zeropoint.graph.program import Program
from zeropoint.measure.fidelity import Fidelity
from zeropoint.measure.parity import first_difference, judge
from zeropoint.quantization import quantize


@pytest.mark.parametrize(
    ("engine_db", "simulation_db", "same_class", "ok"),
    [
        (30.0, 30.4, 1.0, True),  # 0.4 dB below
        (29.4, 30.0, 1.0, False),  # 0.6 dB below
        (30.0, 30.0, 0.995, True),
        (30.0, 30.0, 0.99, False),
        (30.0, 30.0, None, True),  # no classes to compare
        (36.0, 30.0, 0.9, True),  # rounds less often: it is the simulation that strays from float32
        (59.6, math.inf, 1.0, True),  # nothing quantized: 60 dB is where float additions differ
        (59.4, math.inf, 1.0, False),
        (math.nan, 30.0, 1.0, False),
    ],
)
def test_judge(engine_db: float, simulation_db: float, same_class: float | None, ok: bool):
    engine, simulation = Fidelity(1.0, engine_db), Fidelity(1.0, simulation_db)
    assert judge(engine, simulation, Fidelity(same_class, 40.0)).ok is ok


def test_first_difference_names_the_layer_that_an_engine_gets_wrong(monkeypatch: pytest.MonkeyPatch):
    program = quantize(residual(), "static", calibration=[images()], options=options(), target="onnxruntime")
    engine = find("onnxruntime")
    lower = engine.lower

    def lower_wrongly(program: Program, path: Path) -> None:
        module = fx.copy(program.module)
        bias = fx.tensor_of(module, next(n for n in module.graph.nodes if n.target == "inner.bias"))
        fx.set_tensor(module, "inner.bias", bias + 1.0)
        lower(dataclasses.replace(program, module=module), path)

    monkeypatch.setattr(engine, "lower", lower_wrongly)
    assert first_difference(program, "onnxruntime", (images(),)) == "inner (aten.conv2d.default)"


def test_first_difference_of_a_graph_that_the_engine_cannot_run_is_unknown(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no such kernel")

    program = quantize(residual(), "static", calibration=[images()], options=options())
    monkeypatch.setattr(find("openvino"), "lower", fail)
    assert first_difference(program, "openvino", (images(),)) is None
