"""Which rows keep float32's accuracy."""

import pytest

from zeropoint.errors import InputError
from zeropoint.measure.kept import MaxDrop, standings
from zeropoint.measure.latency import Latency
from zeropoint.measure.results import Parity, Results, Row
from zeropoint.tasks.bootstrap import Change
from zeropoint.tasks.metric import Measure

LATENCY = Latency(1.0, 1.1, 1.2)


def kept(max_drop="", float32=0.9, measures=(), fidelity=None, **fields):
    """How a quantized row stands beside float32's."""
    given = {"top1": 0.9, "agreement": 0.995, "sqnr_db": 30.0, "latency_ms": LATENCY} | fields
    row, reference = Row("static", "openvino", 8, 8, **given), {"latency_ms": LATENCY, "top1": float32}
    if measures:
        reference |= {"top1": None, "values": {measures[0].name: float32}}
    rows = (Row("fp32", "torch", 32, 32, **reference), row)
    fidelity = {"fidelity": fidelity} if fidelity else {}
    results = Results(
        "", "", "", "", 1, 1, 100, {}, {}, {}, "", rows=rows, measures=measures, max_drop=max_drop, **fidelity
    )
    return next((one for one in standings(results) if one.row is row), None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top1": 0.89}, "yes"),  # exactly one point below 0.9
        ({"top1": 0.8899}, "no"),
        ({"top1": 0.5, "agreement": 1.0}, "no"),  # labels decide where there are any
        ({"top1": 0.88, "change": Change(-0.02, -0.05, 0.01)}, "unsure"),
        ({"top1": 0.88, "change": Change(-0.02, -0.025, -0.015)}, "no"),
        ({"top1": 0.895, "change": Change(-0.005, -0.03, 0.02)}, "yes"),
        ({"float32": None, "top1": None, "agreement": 0.99, "sqnr_db": 5.0}, "yes"),
        ({"float32": None, "top1": None, "agreement": 0.9375, "sqnr_db": 25.0}, "no"),  # 2 of 32 classes
        ({"float32": None, "top1": None, "agreement": None, "sqnr_db": 20.0}, "yes"),
        ({"float32": None, "top1": None, "agreement": None, "sqnr_db": 19.9}, "no"),
        ({"float32": None, "top1": None, "agreement": None, "sqnr_db": None}, "yes"),  # identical outputs
        ({"max_drop": "0.5", "top1": 0.895}, "yes"),
        ({"max_drop": "0.5", "top1": 0.894}, "no"),
        ({"max_drop": "10%", "top1": 0.81}, "yes"),
        ({"max_drop": "10%", "top1": 0.809}, "no"),
    ],
)
def test_limits(fields, expected):
    assert kept(**fields).kept == expected


def test_a_change_from_eager_float32_comes_before_the_float32_row_of_the_table():
    row = kept(top1=0.8, change=Change(-0.005, -0.005, -0.005))
    assert (row.kept, row.drop) == ("yes", pytest.approx(0.005))


@pytest.mark.parametrize(
    ("unit", "max_drop", "value", "expected"),
    [
        ("", "", 20.2, "yes"),  # 1% by default
        ("", "", 20.3, "no"),
        ("m", "0.5", 20.5, "yes"),
        ("m", "0.5", 20.6, "no"),
        ("m", "5%", 21.0, "yes"),
        ("m", "5%", 21.1, "no"),
        ("m", "0", 19.0, "yes"),  # better than float32
    ],
)
def test_limits_of_a_metric_that_should_be_low(unit, max_drop, value, expected):
    measure = Measure("MAE", unit, higher_is_better=False)
    row = kept(max_drop, 20.0, (measure,), top1=None, values={"MAE": value})
    assert row.kept == expected
    assert row.drop == pytest.approx(value - 20)


def test_a_row_that_computes_something_else_has_no_standing():
    assert kept(parity=Parity(9.0, 30.0, 0.5, False, close=False)) is None


@pytest.mark.parametrize("text", ["five", "-1", "nan", "inf", "%", "1 %%"])
def test_what_is_no_amount(text):
    with pytest.raises(InputError, match="is no amount; give one as in 0"):
        MaxDrop.of(text)


def test_amounts_read_as_they_are_written():
    for text in ("0.5", "2%", "0"):
        assert str(MaxDrop.of(text)) == text
    assert MaxDrop.of("") is None
    assert str(MaxDrop.of(0.5)) == "0.5"
