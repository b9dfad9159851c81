"""The frontier: who is on it, who is chosen, what is told where nothing fits, and the file."""

import dataclasses
import json

import pytest

from zeropoint.errors import InputError
from zeropoint.measure.kept import MaxDrop
from zeropoint.measure.latency import Latency
from zeropoint.tasks.bootstrap import Change
from zeropoint.tasks.metric import Measure
from zeropoint.tuning.budget import Budget
from zeropoint.tuning.frontier import (
    FILE,
    Frontier,
    Point,
    choose,
    drop_of,
    is_lucky,
    limit_of,
    load,
    misses,
    nearest,
    save,
)

TOP1 = Measure("top-1", "%")


def point(name, ms=1.0, size=100, db=30.0, drop=0.0, **more):
    latency = Latency(ms, ms, ms)
    return Point(
        name, "openvino", "static", {"a": name}, size, ms, latency, db, drop=drop, value=0.9 - drop, **more
    )


def frontier(*points):
    return Frontier("m", "d", "b", 1, 1, {}, {}, "f", ("float",), points=points)


def test_a_point_is_on_the_frontier_unless_another_is_as_good_in_all():
    fast, small, fine = (
        point("fast", 1.0, 200, 20.0),
        point("small", 2.0, 50, 20.0),
        point("fine", 3.0, 300, 40.0),
    )
    worse, failed = point("worse", 2.5, 300, 20.0), point("failed", 0.1, 1, 99.0, error="no")
    twin = dataclasses.replace(fast, name="twin")
    found = frontier(worse, fine, small, failed, fast, twin).best
    assert [one.name for one in found] == ["fast", "twin", "small", "fine"]


def test_the_cheapest_within_the_budget_is_chosen_and_of_those_alike_the_most_accurate():
    points = [
        point("lossy", 0.5, drop=0.02, db=10.0),
        point("a", 1.005, db=30.0, drop=0.001),
        point("b", 1.0, db=25.0, drop=0.001),
        point("slow", 2.0, db=60.0),
    ]
    budget = Budget(max_drop=0.5)
    chosen = choose(points, budget, 0.005)
    assert chosen is not None
    assert chosen.name == "a"
    assert choose(points, Budget(min_sqnr=70), None) is None


def test_a_drop_within_the_limit_by_chance_is_not_trusted():
    bad = [point(f"bad{i}", 1.0, db=13.0, drop=0.02) for i in range(4)]
    lucky, safe = point("lucky", 0.9, db=13.0, drop=-0.001), point("safe", 1.5, db=30.0, drop=0.001)
    points = [*bad, lucky, safe]
    assert is_lucky(lucky, points, 0.005)
    assert not is_lucky(safe, points, 0.005)
    chosen = choose(points, Budget(max_drop=0.5), 0.005)
    assert chosen is not None
    assert chosen.name == "safe"
    alone = choose([*bad, lucky], Budget(max_drop=0.5), 0.005)
    assert alone is not None
    assert alone.name == "lucky"  # there is no other


def test_what_few_samples_cannot_tell_from_the_limit_is_taken():
    """Models alike lose 2 points, with a standard error of 1: over a limit of 0.5, but not of 1.5."""
    interval = {"drop_low": -0.0206, "drop_high": 0.0186}
    points = [point(f"bad{i}", 1.0, db=13.0, drop=0.02) for i in range(40)]
    within = point("within", 0.9, db=13.0, drop=-0.001, **interval)
    assert is_lucky(within, [*points, within], 0.005)
    assert not is_lucky(within, [*points, within], 0.015)


def test_misses_are_shares_of_the_limits_and_the_nearest_come_first():
    budget = Budget(min_sqnr=40, max_size=50, max_latency=0.001)
    one = point("one", ms=2.0, size=100, db=30.0)
    assert misses(one, budget, None) == pytest.approx({"SQNR": 0.25, "size": 1.0, "latency": 1.0})
    near = point("near", ms=1.1, size=50, db=39.0)
    assert [found.name for found in nearest([one, near], budget, None)] == ["near", "one"]


def test_drops_and_limits_have_the_direction_and_the_unit_of_the_metric():
    assert drop_of(Change(-0.01, -0.02, 0.005), TOP1) == (0.01, -0.005, 0.02)
    assert drop_of(Change(0.3, 0.1, 0.5), Measure("mae", "", False)) == (0.3, 0.1, 0.5)
    assert limit_of(MaxDrop.of("0.5"), TOP1, 0.9) == pytest.approx(0.005)
    assert limit_of(MaxDrop.of("2%"), TOP1, 0.9) == pytest.approx(0.018)
    assert limit_of(MaxDrop.of("0.5"), Measure("mae", "", False), 3.0) == 0.5
    assert limit_of(None, TOP1, 0.9) is None


def test_the_file_holds_everything_and_damage_is_told(tmp_path):
    whole = frontier(point("a", predicted_ms=1.0), point("b", error="no kernel"))
    save(whole, tmp_path)
    assert load(tmp_path) == whole
    path = tmp_path / FILE
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match="delete it and tune again"):
        load(tmp_path)
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(InputError, match="schema 99"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"no tune\.json in"):
        load(tmp_path / "nowhere")
