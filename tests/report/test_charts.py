import dataclasses
import html
import math
import re

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropoint.measure.layers import Distribution
from zeropoint.report import charts, layer_charts
from zeropoint.tasks.metric import Measure

HOSTILE = '</script><!--<b onclick="alert(1)">&amp;\''


def histogram(distribution, what):
    return go.Figure(layer_charts.histogram(distribution, what))  # which checks it


def channel_ranges(distribution):
    figure = layer_charts.channel_ranges(distribution)
    return figure and go.Figure(figure)


def named(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def grid(figure, name="grid"):
    trace = named(figure, name)
    return [trace.x0 + i * trace.dx for i in range(len(trace.y))]


def texts(value):
    """Every string in a figure, as Plotly would show it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(1, 1), (2, 2), (3, 3)], [0, 1, 2]),  # more costs more
        ([(1, 3), (2, 2), (3, 1)], [0]),  # the first beats all
        ([(3, 5), (1, 2), (2, 1), (2, 4)], [1, 3, 0]),
        ([(1, 1), (1, 2)], [1]),  # at equal cost the better
        ([(1, 2), (2, 2)], [0]),  # at equal gain the cheaper
        ([(1, 2), (1, 2), (0, 0)], [2, 0, 1]),  # equals beat each other not
    ],
)
def test_pareto(points, front):
    assert charts.pareto(points) == front


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12))
def test_pareto_is_all_that_nothing_beats(points):
    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    expected = {i for i, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert set(charts.pareto(points)) == expected


def test_tradeoff_places_every_measured_row(make_row, make_results):
    results = make_results(
        make_row("fp32", "torch", 4.0, top1=0.9, size_bytes=4_000_000),
        make_row("static", "openvino", 1.0, top1=0.0, size_bytes=1_000_000),
        make_row("static", "torch", 2.0, top1=0.8),
        make_row("static", "onnxruntime", error="broken"),
    )
    figure = charts.tradeoff({"m": results})
    static = named(figure, "static W8A8")
    assert list(static.x) == [1.0, 2.0]
    assert list(static.y) == [0.0, 80.0]
    assert list(static.text) == ["static on openvino", "static on torch"]
    # A bubble's area is the size; markers tell engines apart, for readers who cannot tell the colours.
    assert static.marker.sizemode == "area"
    assert list(static.marker.size) == [1_000_000, 1_000_000]
    assert static.marker.symbol[0] != static.marker.symbol[1]
    assert static.marker.symbol[1] == named(figure, "fp32").marker.symbol[0]
    front = named(figure, "Pareto front")
    assert list(zip(front.x, front.y, strict=True)) == [(1.0, 0.0), (2.0, 80.0), (4.0, 90.0)]
    assert figure.layout.yaxis.title.text == "top-1 (%)"
    assert figure.layout.xaxis.title.text == "latency, median (ms)"


def test_tradeoff_of_a_metric_that_should_be_low_has_its_better_end_up(make_row, make_results):
    error = Measure("MAE", "m", higher_is_better=False)
    rows = [
        make_row("fp32", p50=4.0, top1=None, values={"MAE": 1.0}),
        make_row("static", p50=1.0, top1=None, values={"MAE": 1.5}),
        make_row("dynamic", p50=2.0, top1=None, values={"MAE": 2.0}),
    ]
    figure = charts.tradeoff({"m": make_results(*rows, measures=(error,), task="regression")})
    assert figure.layout.yaxis.title.text == "MAE (m)"
    assert figure.layout.yaxis.autorange == "reversed"
    (front,) = (trace for trace in figure.data if trace.name == "Pareto front")
    assert list(front.y) == [1.5, 1.0]
    assert any("MAE 1.500 m" in text for trace in figure.data for text in trace.customdata or ())


def test_tradeoff_without_labels_is_of_sqnr_up_to_the_floor_of_rounding(make_row, make_results):
    none = {"top1": None, "loss": None}
    results = make_results(
        make_row("fp32", "torch", sqnr_db=None, **none),
        make_row("fp32", "openvino", sqnr_db=131.0, **none),
        make_row("static", sqnr_db=27.5, **none),
    )
    figure = charts.tradeoff({"m": results})
    assert figure.layout.yaxis.title.text.startswith("SQNR (dB)")
    assert list(named(figure, "fp32").y) == [60.0, 60.0]
    assert list(named(figure, "static W8A8").y) == [27.5]


def test_several_runs_are_told_apart_by_colour(make_row, make_results):
    runs = {name: make_results(make_row("fp32"), make_row("static", p50=0.5)) for name in ("a", "b")}
    figure = charts.tradeoff(runs)
    assert named(figure, "a").marker.color != named(figure, "b").marker.color
    assert list(named(figure, "b").text) == ["b: fp32 on openvino", "b: static on openvino"]
    assert named(figure, "Pareto front of a").line.color == named(figure, "a").marker.color


def test_no_chart_without_rows(make_row, make_results):
    for results in (make_results(), make_results(make_row("static", latency_ms=None, size_bytes=None))):
        assert charts.tradeoff({"m": results}) is None
        assert charts.latencies(results) is None
        assert charts.sizes(results) is None


def test_sizes_and_latencies(make_row, make_results):
    results = make_results(
        make_row("fp32", "torch", 4.0, size_bytes=4_000_000, parameter_bytes=3_500_000),
        make_row("static", p50=1.0, size_bytes=1_100_000),
    )
    bars, weights = charts.sizes(results).data
    assert list(bars.x) == [4.0, 1.1]
    assert list(weights.x) == [3.5, None]
    boxes = [trace for trace in charts.latencies(results).data if trace.type == "box"]
    assert [(box.median[0], box.q3[0], box.upperfence[0]) for box in boxes] == [
        (4.0, 4.8, 6.0),
        (1.0, 1.2, 1.5),
    ]
    first_on_top = charts.latencies(results).layout.yaxis.categoryarray
    assert list(first_on_top) == ["static on openvino", "fp32 on torch"]


def test_errors_along_the_network(make_layers):
    layers = make_layers(3, sqnr=lambda i: (40.0, None, 20.126)[i])
    figure = layer_charts.errors([(layers, [1, 2, 3]), (make_layers(3, target=""), [1, 2, 3])])
    first, second = figure.data
    assert first.name == "static W4A8 for openvino"
    assert second.name == "static W4A8"
    assert list(first.y) == [40.0, None, 20.13]
    assert (first.meta, second.meta) == (0, 1)
    assert first.line.color != second.line.color
    assert first.marker.symbol != second.marker.symbol
    assert first.line.dash != second.line.dash


def test_histogram_draws_grid_range_and_clipping():
    # Bins of width 1 from -4 to 4; a 3-bit grid from -2 to 1.5 in steps of 0.5.
    values = Distribution(-4.0, 4.0, (1, 2, 3, 4, 5, 6, 0, 8), 3, -4, 3, (0.5,), (0,), 0.4)
    figure = histogram(values, "weight")
    clipped, within = named(figure, "clipped"), named(figure, "within the range")
    assert list(zip(within.x, within.y, strict=True)) == [(-1.5, 3), (-0.5, 4), (0.5, 5), (1.5, 6)]
    assert list(zip(clipped.x, clipped.y, strict=True)) == [(-3.5, 1), (-2.5, 2), (3.5, 8)]
    assert clipped.marker.color != within.marker.color
    assert grid(figure) == [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    assert sorted(shape.x0 for shape in figure.layout.shapes) == [-2.0, 1.5]


def test_histogram_of_channels_marks_the_widest_and_the_narrowest_range():
    values = Distribution(-4.0, 4.0, (1,) * 8, 3, -4, 3, (1.0, 0.5, 0.75), (0, 0, 0), 0.0)
    figure = histogram(values, "weight")
    marked = {shape.x0: shape.line.dash for shape in figure.layout.shapes}
    assert marked == {-4.0: "solid", 3.0: "solid", -2.0: "dot", 1.5: "dot"}
    assert grid(figure, "grid of the median scale")[:2] == [-3.0, -2.25]


def test_histogram_of_an_affine_grid_and_of_one_too_fine_to_draw():
    affine = Distribution(-1.0, 2.0, (1, 1, 1), 2, 0, 3, (1.0,), (1,), 0.0)
    assert grid(histogram(affine, "input")) == [-1.0, 0.0, 1.0, 2.0]
    fine = Distribution(-1.0, 2.0, (1, 1, 1), 16, 0, 2**16 - 1, (0.001,), (0,), 0.0)
    assert "grid" not in [trace.name for trace in histogram(fine, "input").data]


def test_histogram_of_one_value():
    figure = histogram(Distribution(0.0, 0.0, (9, 0), 8, -128, 127, (1e-9,), (0,), 0.0), "weight")
    assert list(named(figure, "within the range").y) == [9]


def test_channel_ranges():
    channels = ((-1.0, 2.0), (-3.0, 0.5))
    one = Distribution(-3.0, 2.0, (1,), 8, -128, 127, (0.01, 0.02), (0, 0), 0.0, channels)
    bars, low, high = channel_ranges(one).data
    assert list(bars.base) == [-1.0, -3.0]
    assert list(bars.y) == [3.0, 3.5]
    assert list(low.y) == [-1.28, -2.56]
    assert list(high.y) == [1.27, 2.54]
    assert channel_ranges(dataclasses.replace(one, channels=())) is None
    shared = channel_ranges(dataclasses.replace(one, scale=(0.01,), zero_point=(0,)))
    assert list(shared.data[1].y) == [-1.28, -1.28]
    grouped = dataclasses.replace(one, scale=(0.1,) * 6, zero_point=(0,) * 6)
    assert len(channel_ranges(grouped).data) == 1


def test_many_channels_share_bars():
    count = 2 * layer_charts.MAX_CHANNELS
    channels = tuple((-float(i), float(i)) for i in range(count))
    wide = Distribution(0.0, 1.0, (1,), 8, -128, 127, (1.0,) * count, (0,) * count, 0.0, channels)
    bars, *_ = channel_ranges(wide).data
    assert bars.dx == 2
    assert len(bars.y) == layer_charts.MAX_CHANNELS
    assert list(bars.base)[:2] == [-1.0, -3.0]  # the least of channels 0 and 1, of 2 and 3


def test_no_name_is_read_as_html(make_row, make_results, make_layers):
    row = dataclasses.replace(make_row("static", HOSTILE), method=HOSTILE)
    results = make_results(make_row("fp32"), row)
    layers = dataclasses.replace(make_layers(2, name=lambda _: HOSTILE), method=HOSTILE)
    figures = [
        charts.tradeoff({HOSTILE: results, "b": results}),
        charts.tradeoff({HOSTILE: results}),
        charts.sizes(results),
        charts.latencies(results),
        layer_charts.errors([(layers, [1, 2])]),
    ]
    for figure in figures:
        shown = texts(figure.to_plotly_json())
        assert any(HOSTILE in html.unescape(text) for text in shown)
        for text in shown:
            assert not re.search(r"<(?!/?(b|br|extra)>)", text)


def test_worst_first(make_layers):
    layers = make_layers(4, sqnr=lambda i: (30.0, None, 10.0, 20.0)[i])
    assert layer_charts.worst_first(layers) == [2, 3, 0, 1]


def test_wide_axes_are_logarithmic(make_row, make_results):
    near = charts.tradeoff({"m": make_results(make_row("fp32", p50=2.0), make_row("static", p50=1.0))})
    far = charts.tradeoff({"m": make_results(make_row("fp32", p50=20.0), make_row("static", p50=1.0))})
    assert near.layout.xaxis.type is None
    assert far.layout.xaxis.type == "log"
    assert math.isclose(named(far, "fp32").x[0], 20.0)
