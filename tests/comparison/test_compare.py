"""The sweep over methods and engines: its rows, what it leaves on disk, and how it continues."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from networks import Residual, images, options, randomized, residual
from torch import Tensor, nn

from zeropoint.comparison.compare import compare
from zeropoint.data import Loaders
from zeropoint.engines import find
from zeropoint.errors import InputError
from zeropoint.graph.capture import capture
from zeropoint.graph.program import load
from zeropoint.measure.layers import load as load_layers
from zeropoint.measure.results import Results

pytestmark = pytest.mark.slow  # every one measures several rows


def labelled(count: int = 2, size: int = 8, first_seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return [(images(size, first_seed + i), torch.arange(size) % 5) for i in range(count)]


def loaders(**parts: object) -> Loaders:
    return Loaders("mine", **{"calibration": [images(8)], "evaluation": labelled(), **parts})  # type: ignore[arg-type]


def run(out: Path, **changed: object) -> Results:
    arguments = {"methods": ["fp32", "static"], "engines": ["openvino", "onnxruntime"], "options": options()}
    program, data = changed.pop("program", None) or residual(), changed.pop("data", None) or loaders()
    return compare(program, data, out=out, **{**arguments, **changed})  # type: ignore[arg-type]


def names(results: Results) -> list[str]:
    return [row.name for row in results.rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder, data=loaders(train=labelled()), methods=["fp32", "dynamic", "static", "qat"])


def test_a_row_for_every_method_on_every_engine(finished: tuple[Path, Results]):
    results = finished[1]
    methods, engines = ["fp32", "dynamic", "static", "qat"], ["openvino", "onnxruntime"]
    assert sorted(names(results)) == sorted(
        f"{method} on {engine}" for method in methods for engine in engines
    )
    assert results.images == 16
    assert not results.missing
    for row in results.rows:
        quantized = row.method != "fp32"
        assert row.error is None
        assert (row.weight_bits, row.activation_bits) == ((8, 8) if quantized else (32, 32))
        assert row.quantized is quantized
        assert 0 <= row.top1 <= 1
        assert 1 < row.loss < 10
        assert 0.8 <= row.agreement <= 1
        assert row.sqnr_db > 10
        assert 0 < row.latency_ms.p50 <= row.latency_ms.p90 <= row.latency_ms.p99
        assert row.speedup_eager > 0
        assert row.speedup_engine > 0
        assert row.size_bytes > row.parameter_bytes > 300
        assert (row.parity is not None) is quantized
        assert row.quantize_seconds > 0 or not quantized
        assert (
            row.parity is None or row.parity.ok or row.method == "dynamic"
        )  # OpenVINO's is symmetric, in groups


def test_ratios_are_those_of_the_medians_of_the_table(finished: tuple[Path, Results]):
    rows = {row.name: row for row in finished[1].rows}
    for row in rows.values():
        float32 = rows[f"fp32 on {row.engine}"]
        assert row.speedup_engine == pytest.approx(float32.latency_ms.p50 / row.latency_ms.p50)
        eager = [other.latency_ms.p50 * other.speedup_eager for other in rows.values()]
        assert eager == pytest.approx([eager[0]] * len(eager))
        assert row.latency_ms.low <= row.latency_ms.p50 <= row.latency_ms.high


def test_a_row_has_its_metrics_and_their_change_from_float32(finished: tuple[Path, Results]):
    assert finished[1].task == "classification"
    assert [measure.name for measure in finished[1].measures] == ["top-1"]
    for row in finished[1].rows:
        assert row.values == {"top-1": row.top1}
        assert row.change.low <= row.change.value <= row.change.high
    float32 = next(row for row in finished[1].rows if row.name == "fp32 on onnxruntime")
    for row in finished[1].rows:
        assert row.change.value == pytest.approx(row.top1 - float32.top1)


def test_files_are_what_the_rows_say(finished: tuple[Path, Results]):
    folder, results = finished
    for row in results.rows:
        artefact = folder / row.artefact
        beside = artefact.with_suffix(".bin") if row.engine == "openvino" else None
        assert row.size_bytes == artefact.stat().st_size + (beside.stat().st_size if beside else 0)
    assert sorted(path.name for path in folder.iterdir()) == [
        "artefacts",
        "layers",
        "programs",
        "results.csv",
        "results.json",
        "results.md",
        "samples",
        "shipping",
    ]
    for saved in (folder / "programs").iterdir():
        assert load(saved).method == saved.name.split("-")[0].removesuffix(".pt2")
    looked = {layers.method for layers in load_layers(folder)}
    assert looked == {row.method for row in results.rows if row.quantized}


def test_json_is_as_documented(finished: tuple[Path, Results]):
    record = json.loads((finished[0] / "results.json").read_text())
    assert record["schema"] == 3
    assert record["machine"]["versions"]["torch"]
    assert record["threads"] == 1
    keys = {"method", "engine", "weight_bits", "activation_bits", "top1", "loss", "agreement", "sqnr_db"}
    keys |= {
        "int8_share",
        "fallbacks",
        "latency_ms",
        "size_bytes",
        "parameter_bytes",
        "quantize_seconds",
        "artefact",
    }
    for row in record["rows"]:
        assert keys <= row.keys()
        assert row["latency_ms"].keys() == {"p50", "p90", "p99", "low", "high"}
        assert not Path(row["artefact"]).is_absolute()


def test_the_same_command_again_measures_nothing(
    finished: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch
):
    folder, results = finished
    said: list[str] = []
    monkeypatch.setattr(
        sys.modules["zeropoint.comparison.compare"], "evaluate_all", None
    )  # to be called no more
    data = loaders(train=labelled())
    again = run(folder, data=data, methods=["fp32", "dynamic", "static", "qat"], say=said.append)
    assert again.rows == results.rows
    assert said == [f"continuing the run in {folder}; finished rows: 8"]


def test_an_interrupted_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(line: str) -> None:
        if line == "static W8A8 on openvino: evaluating":
            raise KeyboardInterrupt

    arguments = {"methods": ["fp32", "static"], "engines": ["openvino"]}
    told = f"1 row and 1 quantized model are saved in {tmp_path}$"
    with pytest.raises(KeyboardInterrupt, match=told):
        run(tmp_path, **arguments, say=interrupt)
    record = json.loads((tmp_path / "results.json").read_text())
    assert [(row["method"], row["engine"]) for row in record["rows"]] == [("fp32", "openvino")]
    monkeypatch.setattr(
        sys.modules["zeropoint.comparison.compare"], "quantize", None
    )  # the static Program is there
    said: list[str] = []
    results = run(tmp_path, **arguments, say=said.append)
    assert said[0] == f"continuing the run in {tmp_path}; finished rows: 1"
    assert not [line for line in said if line.startswith("fp32")]
    assert len(results.rows) == 2
    assert record["rows"][0]["latency_ms"] is None
    assert all(row.latency_ms for row in results.rows)


def test_an_interrupted_first_row_leaves_nothing(tmp_path: Path):
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run(tmp_path / "run", say=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison of the usual arguments."""
    folder = tmp_path_factory.mktemp("once")
    run(folder, methods=["fp32"], engines=["onnxruntime"], options=options(processor="any"))
    return folder


CHANGES = {
    "options, end_bits None and not 4": {"options": options(end_bits=4, processor="any")},
    "options, processor any and not arm": {"options": options(processor="arm")},
    "batch size": {"batch_size": 2},
    "threads": {"threads": 2},
    "weights or other data": {"program": capture(randomized(Residual(), seed=1), images(2))},
    "more data": {"data": loaders(evaluation=labelled(3))},
    "other images": {"data": loaders(evaluation=labelled(first_seed=5))},
    "data": {"data": dataclasses.replace(loaders(), name="others")},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_folder_of_another_comparison_is_left_alone(what: str, once: Path, tmp_path: Path):
    (tmp_path / "results.json").write_bytes((once / "results.json").read_bytes())
    before = (tmp_path / "results.json").read_bytes()
    part = what if what not in ("more data", "other images") else "weights or other data"
    with pytest.raises(
        InputError, match=f"holds a comparison with other {part}; give another --out, or delete it"
    ):
        run(tmp_path, **{"methods": ["fp32"], "options": options(processor="any"), **CHANGES[what]})
    assert (tmp_path / "results.json").read_bytes() == before


def test_several_bits_are_rows_of_their_own(tmp_path: Path):
    methods, engines = ["fp32", "weight-only", "static"], ["openvino"]
    run(tmp_path, methods=methods, engines=engines, bits=["W8A8"])
    told: list[str] = []
    both = ["W8A8", "W4A8", "W4A4"]
    results = run(tmp_path, methods=methods, engines=engines, bits=both, say=told.append)
    assert told[0].endswith("finished rows: 3")
    assert sorted((row.method, row.bits) for row in results.rows) == [
        ("fp32", "W32A32"),
        ("static", "W4A4"),
        ("static", "W4A8"),
        ("static", "W8A8"),
        ("weight-only", "W4A32"),
        ("weight-only", "W8A32"),
    ]
    assert {row.name for row in results.rows} >= {"static on openvino", "static W4A4 on openvino"}
    quality = {row.bits: row.sqnr_db for row in results.rows if row.method == "static"}
    assert quality["W8A8"] > quality["W4A8"] > quality["W4A4"]


def test_a_method_or_engine_can_be_added(tmp_path: Path):
    run(tmp_path, methods=["fp32"], engines=["onnxruntime"])
    results = run(tmp_path, methods=["fp32", "dynamic"], engines=["onnxruntime", "openvino"])
    assert names(results) == [
        "fp32 on onnxruntime",
        "fp32 on openvino",
        "dynamic on onnxruntime",
        "dynamic on openvino",
    ]


def test_an_engine_that_fails_is_a_row_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("\n  no kernel for this\nand a long story")

    with monkeypatch.context() as patch:
        patch.setattr(find("openvino"), "lower", fail)
        results = run(tmp_path, methods=["fp32"])
    assert {row.name: row.error for row in results.rows} == {
        "fp32 on openvino": "no kernel for this",
        "fp32 on onnxruntime": None,
    }
    results = run(tmp_path, methods=["fp32"])
    assert {row.name: row.error for row in results.rows} == {
        "fp32 on openvino": None,
        "fp32 on onnxruntime": None,
    }


def test_what_an_engine_cannot_run_is_a_footnote(tmp_path: Path):
    results = run(tmp_path, methods=["bf16"], engines=["onnxruntime"])
    assert results.rows == ()
    assert list(results.skipped) == ["bf16 on onnxruntime"]


def test_bits_that_one_engine_cannot_run_are_a_footnote_and_those_that_none_can_an_error(tmp_path: Path):
    engines = ["onnxruntime", "openvino"]
    results = run(tmp_path, methods=["dynamic"], engines=engines, options=options(weight_symmetric=False))
    assert names(results) == ["dynamic on openvino"]
    reason = "it needs symmetric weights there; openvino can"
    assert results.skipped == {"dynamic on onnxruntime": reason}
    results = run(tmp_path / "b", methods=["dynamic"], engines=["openvino"], bits=["W4A8", "W4A4"])
    assert names(results) == ["dynamic W4A8 on openvino"]
    assert list(results.skipped) == ["dynamic W4A4 on openvino"]
    line = r"^onnxruntime and openvino cannot run dynamic W4A4: engines quantize .*; no engine can$"
    with pytest.raises(InputError, match=line):
        run(tmp_path / "c", methods=["fp32", "dynamic"], engines=engines, bits=["W4A4"])
    assert not (tmp_path / "c").exists()


def test_without_labels_fidelity_stands_in(tmp_path: Path):
    results = run(tmp_path, data=loaders(evaluation=[images(8)]), engines=["onnxruntime"])
    for row in results.rows:
        assert (row.top1, row.loss, row.error) == (None, None, None)
        assert row.agreement is not None
        assert row.change.value == row.agreement - 1
    assert "the data has no targets" in (tmp_path / "results.md").read_text()


def test_a_task_with_targets_of_its_own_and_its_limit(tmp_path: Path):
    program = residual()
    targets = [(batch, program(batch) + 1) for batch, _ in labelled()]
    what = {"data": loaders(evaluation=targets), "engines": ["onnxruntime"], "task": "regression"}
    results = run(tmp_path, program=program, max_drop="2%", **what)
    assert [measure.name for measure in results.measures] == ["MAE", "R2"]
    assert results.fidelity is None
    float32, static = results.rows
    assert float32.values["MAE"] == pytest.approx(1.0, abs=1e-5)
    assert static.change.value == pytest.approx(static.values["MAE"] - 1.0, abs=1e-5)
    assert (static.top1, static.agreement) == (None, None)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| MAE | R2 |" in text
    assert "MAE within 2% of float32's" in text
    assert "metric_MAE,metric_R2" in (tmp_path / "results.csv").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="holds a comparison with other metrics"):
        run(tmp_path, program=program, metrics=["R2"], **what)


def test_parity_that_falls_short_names_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = find("onnxruntime")
    load_engine = engine.load

    def load_wrongly(path: Path, threads: int, kept: int):
        call = load_engine(path, threads, kept)
        return lambda *inputs: tuple(
            output + 0.2 * output.abs().mean() * torch.randn_like(output) for output in call(*inputs)
        )

    monkeypatch.setattr(engine, "load", load_wrongly)
    results = run(tmp_path, methods=["static"], engines=["onnxruntime"])
    assert not results.rows[0].parity.ok
    assert results.rows[0].parity.operator is not None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methods": ["statc"]}, "unknown method 'statc'; did you mean static"),
        (
            {"engines": ["tensorrt"]},
            "unknown engine 'tensorrt'; valid: executorch, onnxruntime, openvino, torch",
        ),
        ({"methods": ["qat"]}, "qat needs training data, and mine has none"),
        ({"data": loaders(evaluation=[])}, "yields no batch"),
        (
            {"data": loaders(evaluation=[images(2)[:, :2]])},
            "evaluation batch 1 has shape .*; the model takes",
        ),
        ({"data": loaders(evaluation=[images(2) / 0])}, "evaluation batch 1 holds NaN or Inf"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, changed: dict, message: str):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": loaders(calibration=[])}, "calibration set is empty"),
        ({"data": loaders(calibration=[images(2) / 0])}, "holds NaN or Inf"),
        (
            {"data": loaders(evaluation=[(images(2), torch.tensor([0, 5]))])},
            "batch 1: label 5 is out of range",
        ),
    ],
)
def test_bad_data_ends_the_run_with_a_line(tmp_path: Path, changed: dict, message: str):
    with pytest.raises(InputError, match=message):
        run(tmp_path, engines=["onnxruntime"], methods=["static"], **changed)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


class FixedBatch(nn.Module):
    """A model that can be exported for one batch size only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(4, 192))


def test_a_fixed_batch_size(tmp_path: Path):
    program = capture(FixedBatch(), images(4))
    whole, ragged = labelled(2, size=4), [*labelled(1, size=4), *labelled(1, size=3)]
    results = run(
        tmp_path / "whole", program=program, data=loaders(calibration=[images(4)], evaluation=whole)
    )
    assert [row.error for row in results.rows] == [None] * 4
    assert (results.batch_size, results.images) == (4, 8)
    with pytest.raises(
        InputError, match=r"evaluation batch 2 has shape \(3, 3, 8, 8\); the model takes \(4, 3, 8, 8\)"
    ):
        run(tmp_path / "ragged", program=program, data=loaders(calibration=[images(4)], evaluation=ragged))


def test_threads_are_as_before(tmp_path: Path):
    before = torch.get_num_threads()
    run(tmp_path, methods=["fp32"], engines=["onnxruntime"], threads=1)
    assert torch.get_num_threads() == before
