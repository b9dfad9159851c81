"""A search read as the results of a comparison."""

import pytest

from zeropoint.measure.latency import Latency, scaled
from zeropoint.tasks.metric import Measure
from zeropoint.tuning.frontier import Frontier, Point
from zeropoint.tuning.rows import results_of

ERROR_RATE = Measure("error", "%", higher_is_better=False)
FORMATS = {"a": "W4A8", "b": "float", "c": "W8A8"}


def point(name, formats, milliseconds, **facts):
    latency = Latency(milliseconds, 2 * milliseconds, 3 * milliseconds)
    return Point(f"openvino-static-{name}", "openvino", "static", formats, latency_ms=latency, **facts)


def frontier(measure=ERROR_RATE, **changed):
    points = (
        point("float", {"*": "float"}, 8.0, size_bytes=400, value=0.10),
        point(
            "W8A8", {"*": "W8A8"}, 2.0, size_bytes=100, value=0.12, drop=0.02, drop_low=-0.01, drop_high=0.05
        ),
        point("0123456789", FORMATS, 4.0, size_bytes=80, value=0.11, drop=0.01, items=50),
        Point("openvino-static-W4A8", "openvino", "static", {"*": "W4A8"}, error="no kernel"),
    )
    given = dict(
        model="m", data="d", budget="the least size", threads=1, batch_size=1, machine={}, options={},
        fingerprint="f", formats=("float", "W8A8"), measure=measure, points=points,
    )  # fmt: skip
    return Frontier(**{**given, **changed})


def test_rows_say_what_points_do():
    rows = {row.name: row for row in results_of(frontier()).rows}
    assert list(rows) == [
        "fp32 on openvino",
        "static on openvino",
        "static mixed 012345 on openvino",
        "static W4A8 on openvino",
    ]
    mixed = rows["static mixed 012345 on openvino"]
    assert (mixed.weight_bits, mixed.activation_bits, mixed.quantized) == (4, 8, True)
    assert (mixed.speedup_engine, mixed.shrink) == (2.0, 5.0)
    assert rows["static W4A8 on openvino"].error == "no kernel"
    assert results_of(frontier()).images == 50


def test_a_drop_is_a_change_in_the_metrics_own_direction():
    """Two points more errors are a drop of two points, and a change by +2; of a top-1 it would be -2."""
    error = results_of(frontier()).rows[1].change
    assert (error.value, error.low, error.high) == pytest.approx((0.02, -0.01, 0.05))
    top1 = results_of(frontier(Measure("top-1", "%"))).rows[1].change
    assert (top1.value, top1.low, top1.high) == pytest.approx((-0.02, -0.05, 0.01))


def test_agreement_is_no_metric():
    agreement = Measure("agreement", "%")
    results = results_of(frontier(agreement, fidelity=agreement))
    assert results.measures == ()
    assert all(row.values == {} and row.change is None for row in results.rows)


def test_the_chosen_row_is_named():
    assert (
        results_of(frontier(chosen="openvino-static-0123456789")).chosen == "static mixed 012345 on openvino"
    )
    assert results_of(frontier()).chosen == ""


def test_a_scaled_latency_has_the_median_and_the_shape():
    assert scaled(Latency(2.0, 4.0, 6.0, low=1.0), 3.0) == Latency(3.0, 6.0, 9.0, low=1.5)
