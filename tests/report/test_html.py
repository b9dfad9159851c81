import base64
import html.parser
import json
import re
import zlib
from dataclasses import replace

import pytest

from zeropoint.errors import InputError
from zeropoint.measure import layers as layer_files
from zeropoint.measure.results import Parity, Row
from zeropoint.report import html as report
from zeropoint.report.files import save
from zeropoint.report.layer_pages import layer_page, layer_places
from zeropoint.report.verdict import verdict

HOSTILE = "</script><!--<img src=x onerror=alert(1)>&amp;'"
LIMIT = 6_000_000  # bytes


class Page(html.parser.HTMLParser):
    """The tags of a page, its text, and its tables as lists of rows of cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.tables, self.scripts = [], "", {}, {}
        self._id, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self._id = values.get("id", "")
        if tag == "table":
            self.table = self.tables.setdefault(values.get("id", str(len(self.tables))), [])
        if tag == "tr" and self.tables:
            self.table.append([])
        if tag in ("td", "th") and self.tables:
            self.table[-1].append("")

    def handle_endtag(self, tag):
        self._inside = ""
        if tag == "table":
            self.table = []

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._id] = self.scripts.get(self._id, "") + data
            return
        self.words += data
        if self.tables and self.table and self.table[-1]:
            self.table[-1][-1] += data.strip()

    def unpacked(self, key):
        text = zlib.decompress(base64.b64decode(self.scripts[f"packed-{key}"])).decode()
        return text if key == "plotly" else json.loads(text)


@pytest.fixture
def make_run(tmp_path):
    def make(results, *layers, name="run"):
        folder = tmp_path / name
        save(results, folder)
        for one in layers:
            layer_files.save(one, folder)
        return folder

    return make


@pytest.fixture
def two_rows(make_row, make_results):
    good = Parity(30.0, 30.1, 0.998, ok=True)
    return make_results(make_row("fp32", "torch", 3.0), make_row("static", p50=1.0, parity=good))


def rendered(*folders):
    return Page(report.render(report.read(folders)))


def test_verdict_table_command_and_parity_are_those_of_the_run(make_run, two_rows):
    page = rendered(make_run(two_rows))
    assert verdict(two_rows) in page.words
    headers, *rows = page.tables["rows"]
    assert headers[:4] == ["Method", "Engine", "Bits W/A", "Top-1 %"]
    assert [row[:4] for row in rows] == [
        ["fp32", "torch", "32/32", "*90.00"],
        ["static", "openvino", "8/8", "*90.00"],
    ]
    assert page.words.index(verdict(two_rows)) < page.words.index("Method")
    assert ["static on openvino", "30.0 dB", "30.1 dB", "99.80", "ok", "–"] in page.tables["1"]
    assert "zeropoint compare demo" in page.words
    assert "a processor" in page.words


def test_tables_and_charts_are_accessible(make_run, two_rows, make_layers):
    text = report.render(report.read([make_run(two_rows, make_layers())]))
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") >= 5
    assert all(values.get("scope") in ("row", "col") for tag, values in page.tags if tag == "th")
    charts = [values for _, values in page.tags if "data-chart" in values]
    assert [chart["id"] for chart in charts] == ["tradeoff", "sizes-1", "latencies-1", "errors-1"]
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 40 for chart in charts)
    for figure in page.unpacked("figures").values():
        assert re.search(r"\((ms|MB, 10⁶ bytes)\)|layer", figure["layout"]["xaxis"]["title"]["text"])


def test_nothing_is_fetched(make_run, two_rows, make_layers):
    page = rendered(make_run(two_rows, make_layers()))
    assert not [values for _, values in page.tags if values.keys() & {"src", "data", "srcset"}]
    assert all(values["href"].startswith("#") for tag, values in page.tags if "href" in values)
    (policy,) = [values["content"] for _, values in page.tags if values.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert page.unpacked("plotly").startswith("/**\n* plotly.js")


def test_no_layers_no_parity_no_command(make_run, make_row, make_results):
    page = rendered(make_run(make_results(make_row("fp32"), command="")))
    assert "This run did not look at its layers." in page.words
    assert "No row was compared with the simulation" in page.words
    assert "started from Python" in page.words


def test_failed_and_skipped_rows_are_said(make_run, make_row, make_results):
    failed = Row("qat", "torch", 8, 8, error="no <C++> compiler")
    page = rendered(
        make_run(make_results(make_row("fp32"), failed, skipped={"bf16 on torch": "no bf16 here"}))
    )
    assert "✗ qat on torch failed: no <C++> compiler" in page.words
    assert "not run: bf16 on torch, since no bf16 here" in page.words
    assert page.tables["rows"][2][3] == "✗"


def test_a_run_without_rows(make_run, make_results):
    page = rendered(make_run(make_results()))
    assert "No verdict: no row was measured." in page.words
    assert page.tables["rows"][1] == ["No row was measured."]


def test_names_are_text_everywhere(make_run, make_row, make_results, make_layers):
    row = replace(make_row("static", HOSTILE), method=HOSTILE)
    failed = Row("qat", "torch", 8, 8, error=HOSTILE)
    machine = {"processor": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    hostile = {"model": HOSTILE, "data": HOSTILE, "command": HOSTILE, "options": {HOSTILE: HOSTILE}}
    results = make_results(row, failed, machine=machine, missing={HOSTILE: HOSTILE}, **hostile)
    layers = replace(make_layers(2, name=lambda _: HOSTILE), method="static", target="a")
    folder = make_run(results, layers)
    plain = make_run(make_results(make_row("static"), failed), make_layers(2), name="plain")
    page, clean = rendered(folder), rendered(plain)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert HOSTILE in page.words
    # As many scripts as where every name is plain, and none cut short.
    assert sum(tag == "script" for tag, _ in page.tags) == sum(tag == "script" for tag, _ in clean.tags)
    assert next(iter(page.unpacked("pages-1-0").values()))["name"] == HOSTILE


def test_layers_have_rows_and_the_worst_have_pages(make_run, two_rows, make_layers):
    sqnr = {"a": 30.0, "b": 12.345, "c": None}
    layers = make_layers(3, name=lambda i: "abc"[i], sqnr=lambda i: sqnr["abc"[i]])
    other = make_layers(2, bits="W8A8", name=lambda i: "cb"[i], sqnr=lambda i: 50.0)
    page = rendered(make_run(two_rows, layers, other))
    headers, *rows = page.tables["layers-table-1"]
    assert headers == [
        "#",
        "Layer",
        "Operator",
        "MACs",
        "static W4A8 for openvino",
        "static W8A8 for openvino",
    ]
    assert rows == [
        ["1", "a", "conv2d", "1000", "30.0", "–"],
        ["2", "b", "conv2d", "2000", "12.3", "50.0"],
        ["3", "c", "conv2d", "3000", "∞", "50.0"],
    ]
    pages = page.unpacked("pages-1-0")
    assert list(pages) == ["layer-1-0-1", "layer-1-0-2", "layer-1-0-3"]
    assert pages["layer-1-0-2"]["name"] == "b"
    assert ["SQNR of its output", "12.3 dB"] in pages["layer-1-0-2"]["facts"]
    titles = [title for title, _, _ in pages["layer-1-0-2"]["figures"]]
    assert titles == ["Weight: values and grid", "Input: values and grid", "Weight: range of each channel"]
    # The second Program's layer c, its first, stands where the first Program's does.
    assert pages["layer-1-0-3"]["name"] == page.unpacked("pages-1-1")["layer-1-1-3"]["name"] == "c"


def test_equal_names_are_told_apart_by_their_order(make_layers):
    twice = make_layers(3, name=lambda i: "aba"[i])
    assert layer_places([twice, make_layers(2, name=lambda i: "aa"[i])]) == [[1, 2, 3], [1, 3]]


def test_a_layer_that_stays_float_has_no_histogram(make_layers):
    layer = replace(make_layers(1).layers[0], weight=None, input=None)
    page = layer_page("static", layer)
    assert page["figures"] == []
    assert ["Weight", "stays float"] in page["facts"]


def test_only_the_worst_fifty_layers_have_pages(make_run, two_rows, make_layers):
    page = rendered(make_run(two_rows, make_layers(70, channels=2, sqnr=lambda i: float(i))))
    assert list(page.unpacked("pages-1-0")) == [f"layer-1-0-{i}" for i in range(1, 51)]
    assert len(page.tables["layers-table-1"]) == 71


@pytest.mark.slow
def test_thousands_of_layers_stay_small(two_rows, make_layers, tmp_path):
    wide, *_ = make_layers(1, channels=512).layers
    plain = replace(wide, sqnr_db=60.0, weight=None, input=None)
    names = [f"features.blocks.{i}.attention.projection" for i in range(5000)]
    layers = tuple(replace(wide if i < report.WORST else plain, name=name) for i, name in enumerate(names))
    programs = tuple(
        replace(make_layers(1, bits=bits, target=target), layers=layers)
        for bits in ("W8A8", "W4A8")
        for target in ("openvino", "torch")
    )
    runs = [report.Run(f"model {i}", tmp_path, two_rows, programs, "") for i in range(5)]
    text = report.render(runs[:1])
    assert len(text.encode()) < LIMIT
    assert len(Page(text).tables["layers-table-1"]) == 5001
    text = report.render(runs)
    assert len(text.encode()) < LIMIT
    rows = len(Page(text).tables["layers-table-1"]) - 1
    assert rows >= 1000
    assert f"These are the {rows} of 5000 layers with the lowest SQNR" in text


def test_several_runs_side_by_side(make_run, make_row, make_results, make_layers):
    a = make_run(make_results(make_row("fp32", p50=2.0), make_row("static"), model="a"), name="a")
    b = make_run(make_results(make_row("static", p50=0.5), model="b"), make_layers(), name="b")
    page = rendered(a, b, a)  # the same twice is once
    headers, *rows = page.tables["rows"]
    assert headers[:3] == ["Run", "Method", "Engine"]
    assert [row[:2] for row in rows] == [["a", "fp32"], ["a", "static"], ["b", "static"]]
    charts = [values["id"] for _, values in page.tags if "data-chart" in values]
    assert charts == ["tradeoff", "sizes-1", "latencies-1", "sizes-2", "latencies-2", "errors-2"]
    assert "layer-2-0-1" in page.unpacked("pages-2-0")
    assert page.words.count("Ship ") == 2


def test_runs_of_one_model_are_told_apart_by_folder(make_run, two_rows):
    first, second = make_run(two_rows, name="first"), make_run(two_rows, name="second")
    assert [run.label for run in report.read([first, second])] == [
        f"demo/residual ({first})",
        f"demo/residual ({second})",
    ]


def test_unreadable_layers_leave_the_rest(make_run, two_rows, make_layers):
    folder = make_run(two_rows, make_layers())
    (file,) = (folder / "layers").iterdir()
    file.write_text('{"layers": [')
    page = rendered(folder)
    assert f"cannot read {file}" in page.words
    assert verdict(two_rows) in page.words


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no results\.json in .*: give the folder"):
        report.write([tmp_path], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_write(make_run, two_rows, tmp_path):
    report.write([make_run(two_rows)], tmp_path / "new" / "report.html")
    text = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.rstrip().endswith("</html>")
