"""Searches under a budget: what they choose, how they go on, and what they refuse."""

import contextlib
import dataclasses
import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from networks import images, residual
from torch import nn

from zeropoint.comparison.compare import compare
from zeropoint.data import Loaders
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.program import load as load_program
from zeropoint.measure.latency import Latency
from zeropoint.report.files import load as load_results
from zeropoint.report.html import write as write_report
from zeropoint.shipping.ship import ship_run
from zeropoint.tuning import candidates
from zeropoint.tuning.budget import Budget
from zeropoint.tuning.formats import Candidate
from zeropoint.tuning.frontier import load, save
from zeropoint.tuning.search import tune

pytestmark = pytest.mark.slow  # every one makes several models

FORMATS = ("W4A8", "W8A32")


def loaders(**parts):
    labelled = [(images(8, seed), torch.arange(8) % 5) for seed in (5, 6)]
    return Loaders("mine", **{"calibration": [images(8), images(8, 1)], "evaluation": labelled, **parts})


def search(out, budget=None, **changed):
    budget = budget or Budget(min_sqnr=30, minimize="size")
    arguments = {"engines": ["onnxruntime"], "formats": FORMATS, "out": out}
    return tune(
        changed.pop("program", None) or residual(),
        changed.pop("data", None) or loaders(),
        budget,
        **{**arguments, **changed},
    )


@pytest.fixture(autouse=True)
def exact_times(monkeypatch):
    """Latencies that a model always has, in place of measured ones."""

    def seconds(setting, point, beside=None):
        digest = hashlib.sha256(repr(sorted(point.formats.items())).encode()).digest()
        return Latency(median := 1.0 + digest[0] / 256, 1.1 * median, 1.2 * median)

    monkeypatch.setattr(candidates, "_latency", seconds)
    monkeypatch.setattr(
        candidates, "timed", lambda _, points: {n: seconds(None, p) for n, p in points.items()}
    )


def test_what_is_chosen_keeps_the_budget_and_is_what_its_file_computes(tmp_path):
    data = loaders()
    found = search(tmp_path, data=data)
    chosen = found[found.chosen]
    assert chosen.sqnr_db >= 30
    smaller = [p for p in found.points if p.error is None and p.sqnr_db is not None and p.sqnr_db >= 30]
    assert chosen.size_bytes <= 1.01 * min(point.size_bytes for point in smaller)
    program = load_program(tmp_path / chosen.program)
    reference, noise, signal = residual(), 0.0, 0.0
    for inputs, _ in data.evaluation:
        wanted = reference(inputs).double()
        signal += float(wanted.square().sum())
        noise += float((program(inputs).double() - wanted).square().sum())
    assert 10 * torch.log10(torch.tensor(signal / noise)) == pytest.approx(chosen.sqnr_db, abs=0.3)
    assert load(tmp_path) == found


def test_the_formats_of_a_mixture_are_those_of_its_layers(tmp_path):
    formats = {"stem": "W4A8", "inner": "float", "head": "W8A32"}
    candidate = Candidate("onnxruntime", "static", formats)
    from zeropoint.quantization import quantize
    from zeropoint.targets.options import Options

    made = quantize(
        residual(), calibration=[images(8)], target="onnxruntime", options=candidate.options(Options())
    )
    schemes = made.schemes
    assert schemes["stem.weight"].bits == 4
    assert schemes["head.weight"].bits == 8
    assert "inner.weight" not in schemes
    inputs = {node.args[0].target for node in made.module.graph.nodes if "linear" in node.name}
    assert not any("fake_quantize" in str(target) for target in inputs)


def test_a_run_that_was_stopped_goes_on_to_the_same_result(tmp_path, monkeypatch):
    whole = search(tmp_path / "whole")
    original, made = candidates.measured, []

    def counted(setting, candidate, *rest):
        made.append(candidate.name)
        return original(setting, candidate, *rest)

    monkeypatch.setattr(candidates, "measured", counted)
    for stop in range(1, len(whole.points) + 1):

        def stopping(setting, candidate, *rest, stop=stop):
            if len(made) >= stop:
                raise KeyboardInterrupt
            return counted(setting, candidate, *rest)

        monkeypatch.setattr(candidates, "measured", stopping)
        with contextlib.suppress(KeyboardInterrupt):
            search(tmp_path / "parts")
    monkeypatch.setattr(candidates, "measured", counted)
    again = search(tmp_path / "parts")
    assert made == [point.name for point in whole.points]  # each once
    plain = {"seconds": 0, "predicted_ms": None}  # which hang on the clock
    assert [dataclasses.replace(p, **plain) for p in again.points] == [
        dataclasses.replace(p, **plain) for p in whole.points
    ]
    assert again.chosen == whole.chosen


def test_what_was_chosen_is_shipped_and_drawn(tmp_path):
    data, run = loaders(), tmp_path / "run"
    found = search(run, Budget(frontier=True), data=data)
    # Of a tiny network no mixture may be worth it: one is chosen by hand.
    chosen = next(point for point in found.points if not point.uniform and point.program)
    save(dataclasses.replace(found, budget="the least size", chosen=chosen.name), run)
    manifest = ship_run(run, tmp_path / "shipped")
    assert manifest["measured"]["latency_ms"]["p50"] == pytest.approx(chosen.latency_ms.p50)
    golden = np.load(tmp_path / "shipped/golden/outputs.npz")
    program = load_program(run / chosen.program)
    expected = program(data.evaluation[0][0][:4]).numpy()
    assert np.abs(next(iter(golden.values())) - expected).max() < 0.02 * np.abs(expected).max()
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Format of each layer" in page
    layers = [name for name, format in chosen.formats.items() if format != "W8A8"]
    assert all(f'<th scope="row">{name}</th>' in page for name in layers)
    results = load_results(run)
    names = [row.name for row in results.rows]
    assert len(names) == len(set(names))
    assert results.chosen.startswith("static mixed ")


def test_a_search_and_a_comparison_do_not_share_a_folder(tmp_path):
    search(tmp_path / "search", time_limit=0.01)
    with pytest.raises(InputError, match="holds a search of zeropoint tune; give another --out"):
        compare(residual(), loaders(), out=tmp_path / "search", engines=["onnxruntime"])
    assert load(tmp_path / "search").chosen
    (tmp_path / "comparison").mkdir()
    (tmp_path / "comparison/results.json").write_text("{}")
    with pytest.raises(InputError, match="holds a comparison; give another --out"):
        search(tmp_path / "comparison")


def test_another_budget_uses_what_was_measured(tmp_path, monkeypatch):
    first = search(tmp_path)
    made = []
    original = candidates.measured
    monkeypatch.setattr(
        candidates, "measured", lambda s, c, *rest: (made.append(c.name), original(s, c, *rest))[1]
    )
    second = search(tmp_path, Budget(min_sqnr=25, minimize="size"))
    assert not set(made) & {point.name for point in first.points}
    assert {point.name for point in first.points} <= {point.name for point in second.points}
    assert second[second.chosen].sqnr_db >= 25


def test_limits_of_size_are_kept_at_the_least_noise(tmp_path):
    uniform = search(tmp_path, Budget(min_sqnr=20, minimize="size"))
    sizes = {point.uniform: point.size_bytes for point in uniform.points if point.uniform}
    most = (sizes["W8A8"] + sizes["W4A8"]) / 2
    found = search(tmp_path, Budget(max_size=most))
    chosen = found[found.chosen]
    assert chosen.size_bytes <= most
    within = [point for point in found.points if point.error is None and point.size_bytes <= most]
    assert chosen.noise == min(point.noise for point in within)


def test_a_curve_goes_from_float_to_the_fewest_bits(tmp_path):
    found = search(tmp_path, Budget(frontier=True))
    assert found.chosen is None
    best = found.best
    assert len(best) >= 2
    times = [point.latency_ms.p50 for point in best]
    assert times == sorted(times)
    assert len(found.points) > len(FORMATS) + 2


def test_where_nothing_keeps_the_budget_the_nearest_are_told(tmp_path):
    with pytest.raises(InputError) as error:
        search(tmp_path, Budget(max_size=10.0))
    text = str(error.value)
    assert text.startswith("no model has at most 1e-05 MB; the nearest of ")
    assert text.count("misses the size (") == 3
    assert "\n" not in text


def test_a_time_limit_ends_the_search_with_what_there_is(tmp_path):
    found = search(tmp_path, Budget(min_sqnr=30), time_limit=0.01)
    assert found[found.chosen].sqnr_db is None or found[found.chosen].sqnr_db >= 30
    assert len(found.points) <= len(FORMATS) + 2 + 2  # the uniform ones and the probes


def test_other_methods_make_the_best_again(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 5)).eval()
    budget, program = Budget(min_sqnr=20, minimize="size"), capture(model, images(1))
    found = search(tmp_path, budget, program=program, methods=["static", "static-best"], formats=[])
    assert "static-best" in {point.method for point in found.points}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methods": ["dynamic"]}, "not by dynamic"),
        ({"methods": ["qat"]}, "qat needs training data"),
        ({"formats": ["W9A8"]}, "weight_bits"),
        ({"formats": ["int8"]}, "'int8' is no format"),
        ({"engines": ["tensorrt"]}, "tensorrt"),
        ({"engines": []}, "there is no engine"),
        ({"data": 3}, "the data is a int"),
        ({"threads": 0}, "threads"),
        ({"time_limit": -1.0}, "time_limit"),
    ],
)
def test_bad_arguments_are_told_before_the_work(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        search(tmp_path / "new", **changed)
    assert not (tmp_path / "new").exists()


def test_a_drop_needs_targets_or_an_agreement(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    data = Loaders("mine", calibration=[images(8)], evaluation=[images(8)])
    with pytest.raises(InputError, match="--max-drop needs a metric"):
        search(tmp_path / "new", Budget(max_drop=1), program=capture(model, images(1)), data=data)


def test_the_folder_of_another_search_is_left_alone(tmp_path):
    search(tmp_path, Budget(min_sqnr=20))
    before = (tmp_path / "tune.json").read_bytes()
    other = loaders(calibration=[images(8, 3)])
    with pytest.raises(InputError, match="other weights or other data; give another --out"):
        search(tmp_path, Budget(min_sqnr=20), data=other)
    assert (tmp_path / "tune.json").read_bytes() == before


KILLED = """
import sys
sys.path.insert(0, "tests")
import torch
from networks import images, residual
from zeropoint.data import Loaders
from zeropoint.tuning.budget import Budget
from zeropoint.tuning.search import tune

data = Loaders("mine", calibration=[images(8)], evaluation=[images(8, 5)])
budget, engines = Budget(min_sqnr=30), ["onnxruntime"]
found = tune(residual(), data, budget, out=sys.argv[1], engines=engines, formats=["W4A8"])
print("chosen", found.chosen)
"""


def test_a_run_that_was_killed_measures_nothing_twice(tmp_path):
    command, out = [sys.executable, "-c", KILLED, str(tmp_path / "run")], tmp_path / "run"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "tune.json").exists() and len(load(out).points) >= 2:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    stamps = {point.name: point.seconds for point in load(out).points}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "chosen" in done.stdout
    after = {point.name: point.seconds for point in load(out).points}
    assert stamps.items() <= after.items()  # the same measurements
