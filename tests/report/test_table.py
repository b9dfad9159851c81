import io
from dataclasses import replace

import pytest
from rich.console import Console

from zeropoint.measure.latency import Latency
from zeropoint.measure.results import Parity, Row
from zeropoint.report.table import markdown, terminal
from zeropoint.tasks.metric import Measure


def printed(results, width=120):
    file = io.StringIO()
    Console(file=file, width=width).print(terminal(results))
    return file.getvalue()


def markdown_rows(results):
    lines = [line for line in markdown(results).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.fixture
def results(make_row, make_results):
    return make_results(
        make_row("fp32", "torch", 2.9, top1=0.98889, agreement=1.0, sqnr_db=None, speedup_eager=1.0),
        make_row("fp32", "onnxruntime", 0.421, top1=0.98889, agreement=1.0, sqnr_db=131.2, speedup_eager=6.9),
        make_row("static", "onnxruntime", 0.21, top1=0.9833, loss=0.05, sqnr_db=27.3, speedup_eager=13.8),
        make_row("static", "openvino", 0.11, top1=0.9861, agreement=0.991, sqnr_db=28.9, size_bytes=92_000),
    )


def test_every_value_has_its_cell(results):
    row = markdown_rows(results)[2]
    assert row == {
        "Method": "static",
        "Engine": "onnxruntime",
        "Bits W/A": "8/8",
        "Top-1 %": "98.33",
        "Loss": "*0.0500",
        "Agree %": "*99.5",
        "SQNR dB": "27.3",
        "Latency ms p50 (p90)": "0.210 (0.252)",
        "int8 %": "–",
        "× eager": "*13.8",
        "× engine": "–",
        "Size MB": "1.00",
        "Shrink ×": "–",
        "Params MB": "–",
        "Quant. s": "–",
    }


def test_the_best_of_each_column_is_marked(results):
    rows = markdown_rows(results)

    def marked(header):
        return [i for i, row in enumerate(rows) if row[header].startswith("*")]

    assert marked("Top-1 %") == [0, 1]  # equal
    assert marked("Loss") == [2]
    assert marked("Latency ms p50 (p90)") == [3]
    assert marked("Size MB") == [3]
    # float32 is closest to itself: the best quantized row is marked.
    assert marked("SQNR dB") == [3]
    assert marked("Agree %") == [2]


def test_terminal_and_markdown_hold_the_same_cells(results):
    text = printed(results)
    for row in markdown_rows(results):
        line = next(line for line in text.splitlines() if row["Latency ms p50 (p90)"] in line)
        assert line.split() == " ".join(row.values()).split()


def test_the_widest_rows_fit_120_columns(make_row, make_results):
    widest = {"speedup_eager": 26.4, "speedup_engine": 3.18, "shrink": 3.43, "parameter_bytes": 78_000}
    row = make_row(
        "dynamic", "onnxruntime", 0.421, size_bytes=91_000, quantize_seconds=0.812, loss=0.0412, **widest
    )
    for one in (row, replace(row, top1=None, loss=None)):
        text = printed(make_results(replace(one, method="fp32", weight_bits=32, activation_bits=32), one))
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 120


def test_without_labels_there_is_no_column_of_accuracy_and_a_note_says_so(make_row, make_results):
    results = make_results(make_row("static", top1=None, loss=None))
    assert not {"Top-1 %", "Loss"} & markdown_rows(results)[0].keys()
    assert "the data has no targets" in markdown(results)
    assert "the data has no targets" not in markdown(make_results(make_row("static")))


def test_metrics_of_any_task_have_columns_of_their_units_and_directions(make_row, make_results):
    measures = (Measure("MAE", "m", higher_is_better=False), Measure("R2"))
    rows = [
        make_row("static", top1=None, values={"MAE": value, "R2": 0.9}, agreement=None)
        for value in (1.25, 1.5)
    ]
    results = make_results(*rows, measures=measures, task="regression", fidelity=None, data="mine.py:load")
    cells = markdown_rows(results)
    assert [row["MAE m"] for row in cells] == ["*1.250", "1.500"]
    assert cells[0]["R2"] == "*0.9000"
    assert not {"Top-1 %", "Loss", "Agree %"} & cells[0].keys()
    assert "lower is better: MAE" in markdown(results)
    assert "360 samples" in markdown(results)
    near = make_results(*rows, measures=measures, fidelity=Measure("PSNR to float32", "dB"))
    assert "PSNR to float32 dB" in markdown_rows(near)[0]


def test_few_samples_and_a_busy_machine_are_said(make_row, make_results):
    row = make_row("static")
    assert "are few" not in markdown(make_results(row, make_row("fp32")))
    few = markdown(make_results(row, make_row("fp32"), images=32))
    assert "32 samples are few: one of them is 3.1 points, and a row may lose 1" in few
    assert "busy" not in few
    busy = replace(row, latency_ms=Latency(1.0, 1.6, 3.0))
    assert (
        "the machine was busy: the 90th percentile is over 1.5 times the median for static on openvino"
        in (markdown(make_results(busy)))
    )


def test_a_failed_row_says_how(make_row, make_results):
    failed = Row("qat", "torch", 8, 8, error="no C++ compiler [g++] found: install one")
    results = make_results(make_row("fp32", "torch"), failed)
    assert "qat on torch failed: no C++ compiler [g++] found: install one" in printed(results)
    assert "qat on torch failed: no C++ compiler [g++] found: install one" in markdown(results)
    assert markdown_rows(results)[1]["Top-1 %"] == "✗"


def test_a_row_that_failed_after_it_was_timed_is_never_best(make_row, make_results):
    results = make_results(make_row("fp32", p50=2.0), make_row("static", p50=1.0, sqnr_db=float("nan")))
    rows = markdown_rows(results)
    assert rows[0]["Latency ms p50 (p90)"].startswith("*")
    assert rows[1]["Latency ms p50 (p90)"].startswith("1.00")


def test_footer_names_machine_threads_and_missing_engines(make_row, make_results):
    text = printed(make_results(make_row("fp32"), missing={"openvino": "pip install 'zeropoint[openvino]'"}))
    assert "a processor; 2 cores; avx2; 1 thread used" in text
    assert "openvino is not installed: pip install 'zeropoint[openvino]'" in text


def test_parity(make_row, make_results):
    good = make_row("static", parity=Parity(30.0, 30.1, 1.0, True))
    short = make_row(
        "static", "onnxruntime", parity=Parity(24.1, None, 0.972, False, "conv2d_5", close=False)
    )
    assert "parity" not in printed(make_results(make_row("fp32")))
    assert "parity ok: 1 row as close" in printed(make_results(good))
    text = markdown(make_results(good, short))
    assert "parity ok" not in text
    assert (
        "! parity failed for static on onnxruntime: SQNR 24.1 dB, simulated ∞ dB, "
        "same class for 97.20%; they first differ at conv2d_5. Do not ship this row\n"
    ) in text
    assert "| static | onnxruntime! |" in text
    assert "| static | openvino |" in text
    near = make_row("static", parity=Parity(30.0, 30.1, 0.97, False))
    assert "Do not ship this row" not in markdown(make_results(near))
    overflows = make_row(
        "static", parity=Parity(9.2, 23.0, 0.7, False, close=False, cause="results overflow")
    )
    assert "same class for 70.00%. Do not ship this row: results overflow" in markdown(
        make_results(overflows)
    )


def test_parity_in_the_terms_of_the_task(make_row, make_results):
    row = make_row("static", agreement=0.9, parity=Parity(24.1, 30.0, 0.972, False, close=False))
    assert "simulated 30.0 dB, same pixels 97.20%." in markdown(
        make_results(row, fidelity=Measure("same pixels", "%"))
    )
    sharp = replace(row, agreement=40.0, parity=Parity(24.1, 30.0, 31.25, False, close=False))
    assert "PSNR to float32 31.25 dB." in markdown(
        make_results(sharp, fidelity=Measure("PSNR to float32", "dB"))
    )


def test_a_table_of_no_rows(make_results):
    assert "No verdict" in printed(make_results())
    assert "No verdict" in markdown(make_results())


def test_wide_activations_are_said_to_be_float(make_row, make_results):
    line = "activations of 16 bits are rounded in simulation only: engines compute on them in float"
    wide = replace(make_row("static"), activation_bits=16)
    assert line in markdown(make_results(wide))
    assert line in markdown(make_results(make_row("static"), options={"activation16": ("norm",)}))
    assert line not in markdown(make_results(make_row("fp32"), make_row("bf16"), make_row("static")))
