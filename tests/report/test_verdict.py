from dataclasses import replace

from zeropoint.measure.latency import Latency
from zeropoint.measure.results import Parity, Row
from zeropoint.report.verdict import verdict
from zeropoint.tasks.bootstrap import Change
from zeropoint.tasks.metric import Measure


def test_ships_the_fastest_quantized_row_that_keeps_the_accuracy(make_row, make_results):
    results = make_results(
        make_row("fp32", "torch", 10.0, top1=0.9),
        make_row("static", "onnxruntime", 3.0, top1=0.9),
        make_row("static", "openvino", 2.0, top1=0.895, speedup_eager=5.0, shrink=3.9),
        make_row("dynamic", "openvino", 1.0, top1=0.8),
    )
    assert verdict(results) == (
        "Ship static on openvino: 2.00 ms, 5.00× the speed of eager float32, 3.90× smaller, "
        "top-1 89.50% (-0.50 points); the fastest row that keeps float32's accuracy. Of the quantized rows "
        "that do, the most accurate is static on onnxruntime (top-1 90.00% (+0.00 points))."
    )


def test_says_when_float_beats_every_quantized_row(make_row, make_results):
    results = make_results(
        make_row("fp32", "torch", 4.0, speedup_eager=1.0),
        make_row("fp32", "openvino", 1.0, speedup_eager=4.0),
        make_row("static", "openvino", 1.5, speedup_eager=4 / 1.5),
    )
    assert verdict(results) == (
        "Ship fp32 on openvino: 1.00 ms, 4.00× the speed of eager float32, top-1 90.00% (+0.00 points); the"
        " fastest row that keeps float32's accuracy. Float beats every quantized row: static on openvino"
        " takes 1.50× as long."
    )
    faster_but_wrong = make_row("static", "torch", 0.5, top1=0.1)
    with_wrong = make_results(*results.rows, faster_but_wrong)
    assert "Float beats every quantized row that does: static on openvino" in verdict(with_wrong)


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
        "No quantized row does: the closest, qat on openvino, has top-1 80.00% (-10.00 points); it would take"
        " --max-drop 10.0, or --methods static-best."
    )


def test_without_labels_fidelity_decides(make_row, make_results):
    none = {"top1": None, "loss": None}
    results = make_results(
        make_row("fp32", p50=4.0, agreement=1.0, sqnr_db=None, **none),
        make_row("static", p50=2.0, agreement=0.992, sqnr_db=18.0, **none),
        make_row("dynamic", p50=1.0, agreement=0.97, sqnr_db=12.0, **none),
    )
    assert verdict(results).startswith(
        "Ship static on openvino: 2.00 ms, agreement 99.20% (-0.80 points); the fastest"
    )


def test_of_rows_that_are_equally_fast_the_most_accurate_is_shipped(make_row, make_results):
    rows = [
        make_row("fp32", "torch", 10.0, top1=0.995, agreement=1.0),
        make_row("static", "openvino", 1.01, top1=0.995, size_bytes=90_000),
        replace(make_row("static", "openvino", 1.0, top1=0.9933, size_bytes=60_000), weight_bits=4),
    ]
    assert verdict(make_results(*rows)) == (
        "Ship static on openvino: 1.01 ms, top-1 99.50% (+0.00 points); the most accurate of the 2 fastest"
        " rows that keep float32's accuracy, which are equally fast. Of the quantized rows that do, the"
        " smallest is static W4A8 on openvino (0.060 MB)."
    )
    slower = replace(rows[1], latency_ms=Latency(1.2, 1.3, 1.4))
    assert verdict(make_results(rows[0], slower, rows[2])).startswith("Ship static W4A8 on openvino")
    scattered = replace(slower, latency_ms=Latency(1.2, 1.3, 1.4, 0.9, 1.5))
    assert verdict(make_results(rows[0], scattered, rows[2])).startswith("Ship static on openvino")


def test_a_float_row_is_shipped_only_if_it_is_faster_beyond_noise(make_row, make_results):
    rows = [make_row("fp32", p50=1.0), make_row("static", p50=1.01, top1=0.899)]
    assert verdict(make_results(*rows)).startswith("Ship static on openvino: 1.01 ms")
    slower = make_row("static", p50=1.1, top1=0.899)
    assert "static on openvino takes 1.10× as long" in verdict(make_results(rows[0], slower))


def test_identical_outputs_rank_first_among_the_equally_fast(make_row, make_results):
    rows = [
        make_row("fp32", "torch", 10.0),
        make_row("dynamic", "openvino", 1.0, top1=0.91),
        make_row("static", "openvino", 1.0, sqnr_db=None, agreement=1.0),
    ]
    assert verdict(make_results(*rows)).startswith("Ship static on openvino")


def test_speaks_the_first_metric_with_its_unit_and_direction(make_row, make_results):
    error = Measure("MAE", "m", higher_is_better=False)

    def row(method, engine, p50, value, low, high):
        change = Change(value - 2.0, low, high)
        return make_row(method, engine, p50, top1=None, values={"MAE": value}, change=change)

    rows = [
        row("fp32", "torch", 10.0, 2.0, 0.0, 0.0),
        row("static", "openvino", 2.0, 2.015, 0.01, 0.02),
        row("dynamic", "openvino", 1.0, 2.03, 0.015, 0.045),
        row("static", "onnxruntime", 0.5, 2.5, 0.4, 0.6),
    ]
    results = make_results(*rows, measures=(error,), task="regression")
    assert verdict(results) == (
        "Ship static on openvino: 2.00 ms, MAE 2.015 m (+0.0150 m, 95% interval +0.0100 to +0.0200); the"
        " fastest row that keeps float32's accuracy. dynamic on openvino is faster and may keep it, too:"
        " MAE 2.030 m (+0.0300 m, 95% interval +0.0150 to +0.0450); more samples would tell."
    )
    assert "Ship dynamic on openvino" in verdict(replace(results, max_drop="0.03"))
    assert "row that keeps MAE within 0.03 m of float32's" in verdict(replace(results, max_drop="0.03"))
    assert "keeps MAE within 2% of float32's" in verdict(replace(results, max_drop="2%"))
    none = verdict(replace(results, max_drop="0"))
    assert none.startswith("Ship fp32 on torch")
    assert "No quantized row does: the closest, static on openvino, has MAE 2.015 m" in none
    assert "it would take --max-drop 0.015, or --methods static-best." in none


def test_failed_rows_are_never_shipped(make_row, make_results):
    failed = Row("static", "openvino", 8, 8, error="engine")
    assert verdict(make_results(failed)) == "No verdict: no row was measured."
    untimed = make_row("static", latency_ms=None)
    assert verdict(make_results(failed, untimed)) == "No verdict: rows are timed at the end."
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
