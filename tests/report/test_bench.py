import io
import json

import pytest
from rich.console import Console

from zeropoint.errors import InputError
from zeropoint.measure.benchmark import Benchmark, BenchmarkPair
from zeropoint.measure.coldstart import ColdStart
from zeropoint.measure.latency import Latency, Ratio
from zeropoint.report.bench import chosen, compared, terminal, write_json
from zeropoint.tuning.choose import Choice

COLD = ColdStart(1.5, 0.25, 0.004, 1, 0.004, 200_000_000, 350_000_000, 120_500_000)
SLOW = Benchmark("torch", 1, 4, Latency(4.0, 5.0, 6.0), 1000.0, COLD)
FAST = Benchmark("openvino", 1, 4, Latency(2.0, 2.5, 3.0), 2000.0, COLD)
PAIR = BenchmarkPair(SLOW, FAST, Ratio(2.0, 1.95, 2.05))


def test_a_row_for_each_measurement_and_a_column_for_each_model():
    file = io.StringIO()
    Console(file=file, width=120).print(terminal(["a.pt2", "b[0].pt2"], [SLOW, FAST]))
    rows = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert rows[0] == "batch 4, 1 thread a.pt2 on torch b[0].pt2 on openvino"
    assert rows[2:] == [
        "Latency p50 4.00 ms 2.00 ms",
        "Latency p90 5.00 ms 2.50 ms",
        "Latency p99 6.00 ms 3.00 ms",
        "Throughput 1000 items/s 2000 items/s",
        "Cold start 254 ms 254 ms",
        "load 250 ms 250 ms",
        "compile for the shape, first inference 4.00 ms 4.00 ms",
        "imports, not counted 1500 ms 1500 ms",
        "Warm-up 4.00 ms in 1 call 4.00 ms in 1 call",
        "Peak memory 350 MB 350 MB",
        "of it the model's 120 MB 120 MB",
    ]


@pytest.mark.parametrize(
    ("speedup", "line"),
    [
        (Ratio(1.23, 1.21, 1.25), "is 1.23× (95% confidence interval 1.21–1.25) as fast as a on torch"),
        (Ratio(1.004, 1.001, 1.007), "is 1.004× (95% confidence interval 1.001–1.007) as fast as a on torch"),
        (
            Ratio(1.0, 0.99, 1.01),
            "is 1.000× (95% confidence interval 0.990–1.010) as fast as a on torch: no difference was found",
        ),
    ],
)
def test_the_ratio_and_whether_it_is_a_difference(speedup, line):
    assert compared(["a", "b"], BenchmarkPair(SLOW, FAST, speedup)) == f"b on openvino {line}"


def test_what_was_chosen():
    choice = Choice(
        "openvino", {"openvino": FAST.latency_ms, "torch": SLOW.latency_ms}, {"onnxruntime": "why"}
    )
    assert chosen(choice) == "fastest engine: openvino (openvino 2.00 ms, torch 4.00 ms)"


def test_json_holds_all_of_it(tmp_path):
    choice = Choice("openvino", {"openvino": FAST.latency_ms}, {"torch": "no compiler"})
    path = tmp_path / "new" / "bench.json"
    write_json(
        path, ["a", "b"], [SLOW, FAST], [None, choice], PAIR, seconds=3.0, command="zeropoint bench a b"
    )
    record = json.loads(path.read_text())
    assert (record["schema"], record["seconds"], record["command"]) == (1, 3.0, "zeropoint bench a b")
    assert record["machine"]["cores"] > 0
    first, second = record["models"]
    assert (first["model"], first["engine"], first["choice"]) == ("a", "torch", None)
    assert first["latency_ms"] == {"p50": 4.0, "p90": 5.0, "p99": 6.0, "low": None, "high": None}
    assert first["cold_start"]["seconds"] == pytest.approx(0.254)
    assert first["cold_start"]["model_memory_bytes"] == 120_500_000
    assert second["choice"]["failed"] == {"torch": "no compiler"}
    assert record["speedup"] == {"median": 2.0, "low": 1.95, "high": 2.05, "differs": True}


def test_json_of_one_model_has_no_ratio_and_may_be_unwritable(tmp_path):
    write_json(tmp_path / "one.json", ["a"], [SLOW], [None], None, seconds=1.0, command="")
    assert json.loads((tmp_path / "one.json").read_text())["speedup"] is None
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "one.json" / "x", ["a"], [SLOW], [None], None, seconds=1.0, command="")
