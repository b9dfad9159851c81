"""Run folders that earlier versions wrote still load, every number as it was written."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from zeropoint.measure import layers
from zeropoint.report import files, html

SAVED = Path(__file__).parent / "saved"


def plain(value: object) -> object:
    return json.loads(json.dumps(asdict(value), allow_nan=False))


def known(loaded: object, expected: object) -> object:
    """What is loaded without the fields that came later."""
    if isinstance(expected, dict):
        return {key: known(loaded[key], value) for key, value in expected.items()}
    if isinstance(expected, list):
        return [known(one, other) for one, other in zip(loaded, expected, strict=True)]
    return loaded


@pytest.mark.parametrize("schema", [2, 3])
def test_results_of_earlier_versions_load(schema: int):
    expected = json.loads((SAVED / f"schema{schema}" / "results.json").read_text(encoding="utf-8"))
    assert expected.pop("schema") == schema
    if schema == 2:
        expected["remarks"] = []
        for row in expected["rows"]:
            if row["parity"] is not None:
                row["parity"] |= {"close": row["parity"]["ok"], "cause": None}
    loaded = plain(files.load(SAVED / f"schema{schema}"))
    assert known(loaded, expected) == expected
    for row in loaded["rows"]:
        assert row["values"] == ({} if row["top1"] is None else {"top-1": row["top1"]})


@pytest.mark.parametrize(
    ("schema", "names"), [(2, ["dynamic", "static"]), (3, ["dynamic", "static", "static"])]
)
def test_layers_of_earlier_versions_load(schema: int, names: list[str]):
    folder = SAVED / f"schema{schema}"
    loaded = layers.load(folder)
    assert [one.method for one in loaded] == names
    expected = [json.loads(path.read_text()) for path in sorted((folder / "layers").iterdir())]
    assert list(map(plain, loaded)) == expected


def test_a_report_of_both_is_written(tmp_path: Path):
    html.write([SAVED / "schema2", SAVED / "schema3"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("static on openvino") >= 2
