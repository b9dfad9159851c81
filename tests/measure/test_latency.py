import gc

import numpy as np
import pytest

from zeropoint.measure import latency
from zeropoint.measure.latency import Ratio, interleave, paired_ratio, summarize


def test_every_round_times_every_candidate_once_with_warm_caches():
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = interleave(runs, seconds=0, min_rounds=30, warmup=2)
    assert calls[:6] == ["a", "a", "b", "b", "c", "c"]
    visits = list(zip(*(calls[6 + i :: 11] for i in range(11)), strict=True))  # ten untimed calls, one timed
    assert all(len(set(one)) == 1 for one in visits)
    rounds = [tuple(one[-1] for one in visits[i : i + 3]) for i in range(0, len(visits), 3)]
    assert len(rounds) == 30
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1  # shuffled
    assert {name: len(times) for name, times in samples.items()} == {"a": 30, "b": 30, "c": 30}
    assert all((times >= 0).all() for times in samples.values())


class Clock:
    """In the place of ``time``: goes on while somebody sleeps; a thread computes until ``busy_until``."""

    def __init__(self) -> None:
        self.now, self.computed, self.busy_until = 0.0, 0.0, 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.computed

    def sleep(self, seconds: float) -> None:
        self.computed += max(0.0, min(self.busy_until, self.now + seconds) - self.now)
        self.now += seconds


def test_a_candidate_begins_when_the_threads_of_the_last_one_are_idle(monkeypatch: pytest.MonkeyPatch):
    clock, disturbed = Clock(), []

    def spins() -> None:
        clock.busy_until = clock.now + 0.08

    monkeypatch.setattr(latency, "time", clock)
    plain = lambda: disturbed.append(clock.now < clock.busy_until)  # noqa: E731
    interleave({"spins": spins, "plain": plain}, seconds=0, min_rounds=5, warmup=1)
    timed = disturbed[11::11]  # after the one for warm-up, each eleventh call
    assert len(timed) == 5
    assert not any(timed)


@pytest.mark.parametrize(("seconds", "untimed"), [(0.001, 10), (0.011, 3), (0.04, 1), (0.06, 0)])
def test_long_calls_have_fewer_untimed_ones_before_them(
    monkeypatch: pytest.MonkeyPatch, seconds: float, untimed: int
):
    clock, calls = Clock(), []

    def run() -> None:
        clock.now += seconds
        calls.append(1)

    monkeypatch.setattr(latency, "time", clock)
    samples = interleave({"a": run, "b": lambda: None}, seconds=0, min_rounds=2, warmup=1)
    assert samples["a"] == pytest.approx([seconds, seconds])
    first = max(untimed, 1)  # how long a call is, is known after the first round
    assert len(calls) == 1 + first + 1 + untimed + 1


def test_runs_for_the_time_given():
    samples = interleave({"a": lambda: None}, seconds=0.05, min_rounds=1, warmup=0)
    assert len(samples["a"]) > 10


def test_garbage_collection_is_off_meanwhile_and_back_on_after_a_failure():
    seen: list[bool] = []

    def run() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 3:
            raise RuntimeError("engine")

    with pytest.raises(RuntimeError, match="engine"):
        interleave({"a": run}, seconds=0, min_rounds=5, warmup=0)
    assert seen == [False] * 3
    assert gc.isenabled()


def test_percentiles_are_in_milliseconds():
    latency = summarize(np.arange(101) / 1000)
    assert (latency.p50, latency.p90, latency.p99) == (
        pytest.approx(50),
        pytest.approx(90),
        pytest.approx(99),
    )
    assert 30 < latency.low < 50 < latency.high < 70


def test_a_ratio_is_that_of_the_medians_beside_it():
    fast, slow = np.array([1.0, 1.0, 9.0]), np.array([4.0, 4.0, 4.5])
    assert paired_ratio(slow, fast).median == 4.0  # where the ratios of the rounds are 4, 4 and 0.5
    swapped = np.array([1.0, 2.0, 9.0]), np.array([6.0, 3.0, 2.0])
    assert paired_ratio(*swapped).median == summarize(swapped[0]).p50 / summarize(swapped[1]).p50


def test_paired_ratio_cancels_noise_common_to_a_round():
    noise = np.random.default_rng(0).uniform(1, 10, 200)
    assert paired_ratio(3 * noise, noise) == Ratio(pytest.approx(3), pytest.approx(3), pytest.approx(3))


def test_interval_covers_the_median_at_its_nominal_rate():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        ratio = paired_ratio(2 * np.exp(rng.normal(size=60)), np.ones(60), resamples=200)
        assert ratio.low <= ratio.median <= ratio.high
        covered += ratio.low <= 2 <= ratio.high
    assert 88 <= covered <= 100  # 95 expected, standard deviation 2.2


def test_rounds_must_pair():
    with pytest.raises(ValueError, match="3 rounds with 1"):
        paired_ratio(np.ones(3), np.ones(1))
