from pathlib import Path

import numpy as np
import pytest
import torch

from zeropoint.engines import Runner
from zeropoint.measure import benchmark as module
from zeropoint.measure.benchmark import benchmark, benchmark_pair
from zeropoint.measure.coldstart import ColdStart
from zeropoint.measure.latency import Ratio

COLD = ColdStart(1.0, 2.0, 0.5, 3, 0.7, 100, 300, 200)


def runner(engine: str) -> Runner:
    return Runner(engine, 2, Path("file"), lambda *inputs: inputs)


@pytest.fixture
def timed(monkeypatch):
    """Sets how long the calls take that are timed, and collects the fresh processes that were asked for."""
    started = []

    def cold_start(one, inputs):
        started.append((one.engine, [tuple(tensor.shape) for tensor in inputs]))
        return COLD

    def set_times(*samples):
        def interleave(runs, *, seconds):
            assert len(runs) == len(samples)
            for run in runs.values():
                run()
            return dict(zip(runs, map(np.array, samples), strict=True))

        monkeypatch.setattr(module, "interleave", interleave)
        monkeypatch.setattr(module, "cold_start", cold_start)
        return started

    return set_times


def test_throughput_is_the_batch_over_the_median(timed):
    started = timed(np.arange(101) / 1000)
    result = benchmark(runner("torch"), torch.zeros(4, 3))
    latency = result.latency_ms
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx((50, 90, 99))
    assert result.items_per_second == pytest.approx(4 / 0.05)
    assert (result.engine, result.threads, result.batch_size) == ("torch", 2, 4)
    assert result.cold_start is COLD
    assert started == [("torch", [(4, 3)])]


def test_a_pair_tells_how_many_times_as_fast_the_other_is(timed):
    noise = np.random.default_rng(0).uniform(1, 10, 50)
    started = timed(3 * noise, noise)
    pair = benchmark_pair(runner("torch"), runner("openvino"), [torch.zeros(2, 3), torch.zeros(2)])
    assert pair.speedup == Ratio(pytest.approx(3), pytest.approx(3), pytest.approx(3))
    assert pair.differs
    assert pair.model.latency_ms.p50 == pytest.approx(3 * pair.other.latency_ms.p50)
    assert (pair.model.engine, pair.other.engine) == ("torch", "openvino")
    assert started == [("torch", [(2, 3), (2,)]), ("openvino", [(2, 3), (2,)])]


def test_no_difference_where_the_interval_holds_1(timed):
    timed([1.0, 2.0] * 20, [2.0, 1.0] * 20)
    assert not benchmark_pair(runner("torch"), runner("torch"), torch.zeros(1)).differs
