import pytest

from zeropoint.measure.results import Parity, Row
from zeropoint.report.verdict import keeps_accuracy, verdict


def test_ships_the_fastest_quantized_row_that_keeps_the_accuracy(make_row, make_results):
    results = make_results(
        make_row("fp32", "torch", 10.0, top1=0.9),
        make_row("static", "onnxruntime", 3.0, top1=0.9),
        make_row("static", "openvino", 2.0, top1=0.895, speedup_eager=5.0, shrink=3.9),
        make_row("dynamic", "openvino", 1.0, top1=0.8),
    )
    assert verdict(results) == (
        "Ship static on openvino: 2.00 ms, 5.00× the speed of eager float32, 3.90× smaller, "
        "top-1 89.50% (-0.50 points); the fastest row that keeps float32's accuracy."
    )


def test_says_when_float_beats_every_quantized_row(make_row, make_results):
    results = make_results(
        make_row("fp32", "torch", 4.0, speedup_eager=1.0),
        make_row("fp32", "openvino", 1.0, speedup_eager=4.0),
        make_row("static", "openvino", 1.5, speedup_eager=4 / 1.5),
    )
    assert verdict(results) == (
        "Ship fp32 on openvino: 1.00 ms, 4.00× the speed of eager float32, top-1 90.00% (+0.00 points). "
        "Float beats every quantized row: static on openvino takes 1.50× as long."
    )
    faster_but_wrong = make_row("static", "torch", 0.5, top1=0.1)
    with_wrong = make_results(*results.rows, faster_but_wrong)
    assert "Float beats every quantized row that keeps the accuracy: static on openvino" in verdict(
        with_wrong
    )


def test_bf16_is_a_float_row_that_must_keep_the_accuracy(make_row, make_results):
    fp32, static = make_row("fp32", p50=3.0), make_row("static", p50=2.0)
    assert verdict(make_results(fp32, make_row("bf16", p50=1.0), static)).startswith("Ship bf16 on openvino")
    assert verdict(make_results(fp32, make_row("bf16", p50=1.0, top1=0.5), static)).startswith("Ship static")


def test_says_when_no_quantized_row_keeps_the_accuracy(make_row, make_results):
    results = make_results(
        make_row("fp32", "torch", 4.0),
        make_row("static", p50=1.0, top1=0.5),
        make_row("qat", p50=1.0, top1=0.8),
    )
    assert verdict(results).endswith(
        "No quantized row keeps float32's accuracy: "
        "the closest, qat on openvino, has top-1 80.00% (-10.00 points)."
    )


def test_without_labels_fidelity_decides(make_row, make_results):
    none = {"top1": None, "loss": None}
    results = make_results(
        make_row("fp32", p50=4.0, agreement=1.0, sqnr_db=None, **none),
        make_row("static", p50=2.0, agreement=0.992, sqnr_db=18.0, **none),
        make_row("dynamic", p50=1.0, agreement=0.97, sqnr_db=12.0, **none),
    )
    assert verdict(results).startswith(
        "Ship static on openvino: 2.00 ms, 99.20% agreement with float32, SQNR 18.0 dB;"
    )


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top1": 0.89}, True),  # exactly one point below 0.9
        ({"top1": 0.8899}, False),
        ({"top1": 0.5, "agreement": 1.0}, False),  # labels decide where there are any
        ({"top1": None, "agreement": 0.99, "sqnr_db": 5.0}, True),
        ({"top1": None, "agreement": 0.98, "sqnr_db": 20.0}, True),
        ({"top1": None, "agreement": 0.98, "sqnr_db": 19.9}, False),
        ({"top1": None, "agreement": None, "sqnr_db": None}, True),  # identical outputs
    ],
)
def test_thresholds(make_row, fields, kept):
    assert keeps_accuracy(make_row("static", **fields), 0.9) == kept


def test_failed_rows_are_never_shipped(make_row, make_results):
    failed = Row("static", "openvino", 8, 8, error="engine")
    assert verdict(make_results(failed)) == "No verdict: no row was measured."
    broken = make_row("static", p50=0.1, sqnr_db=float("nan"))
    assert verdict(make_results(make_row("fp32"), broken)).startswith("Ship fp32")


def test_only_float_or_only_poor_rows(make_row, make_results):
    assert "no quantized one was measured" in verdict(make_results(make_row("fp32")))
    poor = make_row("static", top1=None, agreement=0.5, sqnr_db=3.0)
    assert verdict(make_results(poor)).startswith("Ship none")


def test_a_row_that_computes_something_else_is_not_recommended(make_row, make_results):
    overflow = Parity(9.2, 23.0, 0.7, False, close=False, cause="int8 results overflow")
    fp32, wrong = make_row("fp32", "torch", 4.0), make_row("static", "onnxruntime", 1.0, parity=overflow)
    right = make_row("static", "openvino", 2.0)
    text = verdict(make_results(fp32, wrong, right))
    assert text.startswith("Ship static on openvino: ")
    assert text.endswith(" Do not ship static on onnxruntime: int8 results overflow on this processor.")
    assert verdict(make_results(wrong)) == (
        "Ship none of these: static on onnxruntime: int8 results overflow on this processor."
    )
    unknown = make_row("static", "torch", 1.0, parity=Parity(9.2, 23.0, None, False, close=False))
    assert verdict(make_results(fp32, right, unknown)).endswith(
        " Do not ship static on torch: parity with the simulation failed."
    )


def test_a_row_whose_classes_differ_is_recommended_with_a_word(make_row, make_results):
    near = make_row("static", p50=1.0, parity=Parity(22.6, 23.0, 0.955, False))
    text = verdict(make_results(make_row("fp32", "torch", 4.0), near))
    assert text.startswith("Ship static on openvino: ")
    assert "the engine gives the simulation's class for 95.50% alone; the fastest row" in text
