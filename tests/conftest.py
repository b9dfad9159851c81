import os

# Before torch looks: on a GPU training is in bf16, whose numbers are no one's to compare with.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A compiled package is code that calls kernels, and the kernels: no test times the former.
os.environ["AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL"] = "O0"
os.environ["AOT_INDUCTOR_ENABLE_LINE_TABLES"] = "0"

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from zeropoint import engines


def core_of(worker: int, cores: list[int]) -> int:
    """A core for each of the first workers; for one that replaces a dead one that with the fewest others."""
    if worker < len(cores):
        return cores[worker]
    siblings = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
    taken = [os.sched_getaffinity(int(pid)) for pid in siblings if int(pid) != os.getpid()]
    return min(cores, key=lambda core: sum(one == {core} for one in taken))


# Several workers share the cores: with threads on all of them each they would wait for each other.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {core_of(int(worker.removeprefix("gw")), sorted(os.sched_getaffinity(0)))})
torch.set_num_threads(1 if worker else 2)
settings.register_profile("zeropoint", deadline=None, max_examples=50)
settings.load_profile("zeropoint")


@pytest.fixture(autouse=True, scope="session")
def quick_timing() -> Iterator[None]:
    """As few calls as may be are timed: no test looks at how long they take."""
    with pytest.MonkeyPatch.context() as patch:
        for seconds in (
            "comparison.runners.LATENCY_SECONDS",
            "parts.compare.SECONDS",
            "diagnosis.diagnose.SECONDS",
        ):
            patch.setattr(f"zeropoint.{seconds}", 0.0)
        yield


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test draws the same ones, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def no_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """``zp.benchmark`` makes up what a fresh process takes; tests/measure/test_coldstart.py starts one."""
    from zeropoint.measure import benchmark
    from zeropoint.measure.coldstart import ColdStart

    cold = ColdStart(1.0, 0.5, 0.1, 1, 0.1, 10**8, 3 * 10**8, 2 * 10**8)
    monkeypatch.setattr(benchmark, "cold_start", lambda *_: cold)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: the last minute is for short ones, which fill all workers.

    Tests of engines that no default needs are skipped where these are not installed.
    """
    absent = {
        word: f"needs: {hint}"
        for name, hint in engines.missing().items()
        if name in engines.ON_REQUEST
        for word in (name, *engines.named(name).ENDINGS)
    }
    for item in items:
        given = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        for value in given.values():
            if isinstance(value, str) and value in absent:
                item.add_marker(pytest.mark.skip(reason=absent[value]))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from what is imported by now, and from looking at few new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
