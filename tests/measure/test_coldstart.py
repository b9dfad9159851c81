import dataclasses
import subprocess

import pytest
import torch
from networks import images, residual

from zeropoint import engines
from zeropoint.errors import InputError
from zeropoint.measure import coldstart
from zeropoint.measure.coldstart import ColdStart, cold_start, warmup_calls


@pytest.mark.parametrize(
    ("times", "calls"),
    [
        ([1.0] * 10, 0),
        ([9.0, 3.0, 1.11, 1.1, 2.0, *[1.0] * 5], 3),  # 1.1 is within 10% of the later half's median
        ([0.5, *[1.0] * 9], 0),
        ([5.0, 1.0], 1),
    ],
)
def test_warmup_ends_with_the_first_call_near_the_median_of_later_ones(times, calls):
    assert warmup_calls(times) == calls


@pytest.fixture
def runner(tmp_path):
    return engines.compile(residual(), "onnxruntime", threads=1, path=tmp_path / "model")


@pytest.mark.slow
def test_a_fresh_process_is_measured_whatever_the_size_of_this_one(runner):
    ballast = b"x" * 2**30
    result = cold_start(runner, [images(2)])
    assert all(value >= 0 for value in dataclasses.astuple(result))
    assert min(result.import_seconds, result.load_seconds, result.first_call_seconds) > 0
    assert result.seconds == result.load_seconds + result.first_call_seconds
    assert (result.warmup_seconds > 0) == (result.warmup_calls > 0)
    assert 0 < result.model_memory_bytes < result.peak_memory_bytes < len(ballast)
    assert 50e6 < result.memory_before_bytes < result.peak_memory_bytes  # torch alone is more


@pytest.mark.slow
def test_inputs_that_do_not_fit_are_refused_in_a_line(runner):
    with pytest.raises(
        InputError, match=r"onnxruntime fails on .*model\.onnx in a fresh process: .*"
    ) as info:
        cold_start(runner, [torch.zeros(1, 3, 4, 4)])
    assert "\n" not in str(info.value)


def test_the_process_is_told_all_and_its_last_line_is_read(runner, monkeypatch):
    expected = ColdStart(1.0, 2.0, 0.5, 3, 0.7, 100, 300, 200)
    commands = []

    def run(command, **_):
        commands.append(command)
        printed = f"a library's greeting\n{coldstart.json.dumps(dataclasses.asdict(expected))}\n"
        return subprocess.CompletedProcess(command, 0, printed, "")

    monkeypatch.setattr(coldstart.subprocess, "run", run)
    assert cold_start(runner, [images(2)]) == expected
    assert expected.seconds == 2.5
    request = coldstart.json.loads(commands[0][-1])
    assert request == {
        "artefact": str(runner.artefact),
        "engine": "onnxruntime",
        "threads": 1,
        "inputs": [[[2, 3, 8, 8], "float32"]],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "stderr", "reason"),
    [(1, "Traceback\nValueError: what\n", "ValueError: what"), (-9, "", "signal 9"), (1, "", "no message")],
)
def test_a_process_that_fails_or_dies_is_explained(runner, monkeypatch, status, stderr, reason):
    done = subprocess.CompletedProcess([], status, "", stderr)
    monkeypatch.setattr(coldstart.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(InputError, match=f"in a fresh process: .*{reason}$"):
        cold_start(runner, [images(1)])
