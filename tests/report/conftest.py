import numpy as np
import pytest

from zeropoint.measure.latency import Latency
from zeropoint.measure.layers import BINS, Distribution, Layer, Layers
from zeropoint.measure.results import Results, Row


@pytest.fixture(scope="session")
def make_row():
    def make(method, engine="openvino", p50=1.0, **fields):
        bits = {"fp32": 32, "bf16": 16}.get(method, 8)
        defaults = {"top1": 0.9, "loss": 0.3, "agreement": 0.995, "sqnr_db": 30.0}
        defaults |= {"latency_ms": Latency(p50, p50 * 1.2, p50 * 1.5), "size_bytes": 1_000_000}
        return Row(method, engine, bits, bits, **(defaults | fields))

    return make


@pytest.fixture(scope="session")
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
            "fingerprint": "",
        }
        return Results(**(defaults | fields), rows=rows)

    return make


@pytest.fixture(scope="session")
def make_layers():
    """A quantized Program's Layers with seeded normal values; layer i has ``sqnr(i)`` dB."""

    def distribution(values, bits, scale, channels):
        low, high = float(values.min()), float(values.max())
        counts, _ = np.histogram(values, bins=BINS, range=(low, high))
        qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        ends = tuple((float(row.min()), float(row.max())) for row in values) if channels else ()
        clipped = float(((values > scale.max() * qmax) | (values < scale.max() * qmin)).mean())
        zero_points = (0,) * len(scale)
        return Distribution(
            low,
            high,
            tuple(map(int, counts)),
            bits,
            qmin,
            qmax,
            tuple(map(float, scale)),
            zero_points,
            clipped,
            ends,
        )

    def make(count=6, method="static", bits="W4A8", target="openvino", *, channels=8, name=None, sqnr=None):
        generator = np.random.default_rng(0)
        layers = []
        for i in range(count):
            weight = generator.normal(size=(channels, 36)) * generator.uniform(0.5, 2, (channels, 1))
            values = np.maximum(generator.normal(size=(1, 500)), 0)
            layers.append(
                Layer(
                    name(i) if name else f"layer{i // 4}.{i % 4}.conv",
                    "conv2d",
                    sqnr(i) if sqnr else 40.0 - i / 10,
                    distribution(weight, 4, np.abs(weight).max(1) / 9, True),
                    distribution(values, 8, values.max(1) / 150, False),
                    1000 * (i + 1),
                )
            )
        return Layers(method, bits, target, 64, tuple(layers))

    return make
