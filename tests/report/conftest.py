import pytest

from zeropoint.measure.latency import Latency
from zeropoint.results import Results, Row


@pytest.fixture
def make_row():
    def make(method, engine="openvino", p50=1.0, **fields):
        bits = {"fp32": 32, "bf16": 16}.get(method, 8)
        defaults = {"top1": 0.9, "loss": 0.3, "agreement": 0.995, "sqnr_db": 30.0}
        defaults |= {"latency_ms": Latency(p50, p50 * 1.2, p50 * 1.5), "size_bytes": 1_000_000}
        return Row(method, engine, bits, bits, **(defaults | fields))

    return make


@pytest.fixture
def make_results():
    def make(*rows, **fields):
        defaults = {
            "created": "2026-01-01T00:00:00+00:00",
            "command": "zeropoint compare demo",
            "model": "demo/residual",
            "data": "digits",
            "threads": 1,
            "batch_size": 1,
            "images": 360,
            "machine": {"processor": "a processor", "cores": 2, "instruction_sets": ["avx2"], "versions": {}},
            "options": {},
            "missing": {},
        }
        return Results(**(defaults | fields), rows=rows)

    return make
