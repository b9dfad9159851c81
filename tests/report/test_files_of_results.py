import csv
import json
import math
from dataclasses import replace

import pytest

from zeropoint.errors import InputError
from zeropoint.measure.latency import Latency
from zeropoint.measure.results import Parity, Results, Row
from zeropoint.report import files

FP32 = Row(
    "fp32",
    "torch",
    32,
    32,
    0.99,
    0.04,
    1.0,
    math.inf,
    Latency(2.9, 3.4, 3.8),
    1.0,
    1.0,
    312_000,
    1.0,
    300_000,
)
STATIC = Row(
    "static",
    "openvino",
    8,
    8,
    sqnr_db=28.9,
    latency_ms=Latency(0.11, 0.12, 0.2),
    artefact="static-openvino.xml",
    parity=Parity(24.1, 27.4, 0.972, False, "conv2d_5"),
)
BROKEN = Row("qat", "torch", 8, 8, error="no compiler, found")
RESULTS = Results(
    created="2026-01-01T00:00:00+00:00",
    command="zeropoint compare demo",
    model="demo",
    data="digits",
    threads=1,
    batch_size=1,
    images=360,
    machine={"processor": "a processor", "cores": 2, "instruction_sets": ["avx2"]},
    options={"skip": ["conv1"]},
    missing={"onnxruntime": "pip install 'zeropoint[onnxruntime]'"},
    fingerprint="",
    rows=(FP32, STATIC, BROKEN),
)


def strict_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_comes_back_from_disk_as_it_was(tmp_path):
    files.save(RESULTS, tmp_path / "new" / "run")
    assert files.load(tmp_path / "new" / "run") == RESULTS
    assert sorted(path.name for path in (tmp_path / "new" / "run").iterdir()) == [
        "results.csv",
        "results.json",
        "results.md",
    ]


def test_saving_again_replaces(tmp_path):
    files.save(replace(RESULTS, rows=()), tmp_path)
    files.save(RESULTS, tmp_path)
    assert files.load(tmp_path).rows == RESULTS.rows


def test_json_is_valid_and_has_the_documented_keys(tmp_path):
    files.save(RESULTS, tmp_path)
    record = strict_json((tmp_path / "results.json").read_text())
    assert record["schema"] == 3
    assert record["threads"] == 1
    row = record["rows"][0]
    assert row["latency_ms"] == {"p50": 2.9, "p90": 3.4, "p99": 3.8, "low": None, "high": None}
    assert row["sqnr_db"] is None
    expected = {"method", "engine", "weight_bits", "activation_bits", "top1", "loss", "agreement", "sqnr_db"}
    expected |= {"latency_ms", "size_bytes", "parameter_bytes", "quantize_seconds", "artefact"}
    assert expected <= row.keys()


def test_csv_has_a_line_per_row_and_a_column_per_number(tmp_path):
    files.save(RESULTS, tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["fp32", "static", "qat"]
    assert rows[0]["latency_ms_p50"] == "2.9"
    assert rows[1]["parity_operator"] == "conv2d_5"
    assert rows[2]["error"] == "no compiler, found"
    assert rows[2]["latency_ms_p50"] == ""


@pytest.mark.parametrize("measured", [{"sqnr_db": math.nan}, {"sqnr_db": -math.inf}, {"loss": math.nan}])
def test_outputs_with_nan_make_a_failed_row(measured):
    row = Row("static", "torch", 8, 8, **measured)
    assert row.sqnr_db is None
    assert row.loss is None
    assert "NaN" in row.error


def test_identical_outputs_are_no_failure():
    row = Row("fp32", "torch", 32, 32, sqnr_db=math.inf)
    assert row.sqnr_db is None
    assert row.error is None


def test_a_run_of_the_schema_before_is_read(tmp_path):
    files.save(RESULTS, tmp_path)
    path = tmp_path / "results.json"
    record = json.loads(path.read_text()) | {"schema": 2}
    for row in record["rows"]:
        del row["digest"]
        if row["parity"] is not None:
            del row["parity"]["cause"], row["parity"]["close"]
    path.write_text(json.dumps(record))
    read = files.load(tmp_path)
    assert [row.name for row in read.rows] == [row.name for row in RESULTS.rows]
    short = next(row for row in read.rows if row.parity is not None and not row.parity.ok)
    assert short.is_wrong  # it did not tell by how much
    assert short.parity.cause is None


def damage(tmp_path, change):
    files.save(RESULTS, tmp_path)
    path = tmp_path / "results.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(schema=4), "newer zeropoint .*upgrade"),
        (lambda record: record.pop("schema"), "no schema number"),
        (lambda record: record.pop("threads"), "missing required field `threads`"),
        (
            lambda record: record["rows"][1].pop("engine"),
            r"missing required field `engine` - at `\$\.rows\[1\]`",
        ),
        (
            lambda record: record["rows"][0]["latency_ms"].pop("p50"),
            r"missing required field `p50` - at `\$\.rows\[0\]\.latency_ms`",
        ),
        (lambda record: record.update(rows={}), r"Expected `array`, got `object` - at `\$\.rows`"),
        (lambda record: record["rows"].append(3), r"Expected `object`, got `int` - at `\$\.rows\[3\]`"),
    ],
)
def test_damaged_results_are_explained(tmp_path, change, message):
    damage(tmp_path, change)
    with pytest.raises(InputError, match=message):
        files.load(tmp_path)


def test_a_number_that_was_changed_is_told(tmp_path):
    def change(record):
        record["rows"][1]["latency_ms"]["p50"] = 0.01

    damage(tmp_path, change)
    message = r"results\.json: row 2, static on openvino, was changed after it was saved; delete results.json"
    with pytest.raises(InputError, match=message):
        files.load(tmp_path)


def test_another_order_of_keys_and_rows_without_a_digest_are_read(tmp_path):
    def reorder(record):
        record["rows"] = [dict(sorted(row.items(), reverse=True)) for row in record["rows"]]

    damage(tmp_path, reorder)
    assert files.load(tmp_path) == RESULTS

    def earlier(record):
        for row in record["rows"]:
            del row["digest"]

    damage(tmp_path, earlier)
    assert files.load(tmp_path) == RESULTS


@pytest.mark.parametrize("content", [b"", b"not JSON", b'{"schema": 1, "rows": [', b"\xff\xfe\x00", b"[]"])
def test_files_that_are_not_results_are_explained(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=r"results\.json .*compare again"):
        files.load(tmp_path)


def test_no_results_there(tmp_path):
    with pytest.raises(InputError, match=r"no results\.json"):
        files.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"no results\.json in .*file: give the folder"):
        files.load(tmp_path / "file")


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        files.save(RESULTS, tmp_path / "file")


def test_unknown_keys_are_ignored(tmp_path):
    damage(tmp_path, lambda record: record.update(note="by hand"))
    assert files.load(tmp_path) == RESULTS
