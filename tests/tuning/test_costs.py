"""Costs of layers: what uniform networks took is what they add up to, and fits recover known factors."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from zeropoint.graph.capture import capture
from zeropoint.tuning.budget import LATENCY, LOSS, SIZE
from zeropoint.tuning.costs import Costs, of_tables, refitted
from zeropoint.tuning.frontier import Cost, Point


def chain():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 5))
    return capture(model.eval(), torch.rand(1, 3, 8, 8)).module


def point(format, **values):
    return Point(format, "openvino", "static", {"*": format}, **values)


@pytest.fixture
def costs() -> Costs:
    tables = {
        "float": {"0": Cost(108, 3e-3, 0.0), "2": Cost(288, 2e-3, 0.0), "4": Cost(640, 1e-3, 0.0)},
        "W8A8": {"0": Cost(108, 1e-3, 2e-4), "2": Cost(288, 1e-3, 1e-4), "4": Cost(640, 5e-4, 3e-4)},
        "W4A8": {"0": Cost(108, 1e-3, 9e-3), "2": Cost(288, 1e-3, 5e-3)},
    }
    uniform = {
        "float": point("float", search_ms=8.0, size_bytes=4 * 1036 + 500),
        "W8A8": point("W8A8", search_ms=4.0, size_bytes=1036 + 500),
        "W4A8": point("W4A8", search_ms=3.5, size_bytes=1036 // 2 + 500),
    }
    return of_tables(tables, uniform, chain())


def test_uniform_networks_take_what_they_took(costs):
    assert costs.predicted({"*": "float"}, LATENCY) == pytest.approx(8e-3)
    assert costs.predicted({"*": "W8A8"}, LATENCY) == pytest.approx(4e-3)
    assert costs.predicted({"*": "float"}, SIZE) == pytest.approx(4 * 1036 + 500)
    assert costs.predicted({"*": "W8A8"}, SIZE) == pytest.approx(1036 + 500)
    assert costs.base[LATENCY] == pytest.approx(1.5e-3)  # what of W8A8 no kernel took, the least of all
    assert costs.predicted({"*": "W8A8"}, LOSS) == pytest.approx(6e-4)


def test_sizes_follow_from_bits(costs):
    formats = {"0": "W4A8", "2": "W8A8", "4": "float"}
    assert costs.predicted(formats, SIZE) == pytest.approx(500 + 108 / 2 + 288 + 4 * 640)


def test_a_layer_without_a_format_is_not_given_it(costs):
    assert costs.allowed.tolist() == [[True] * 3, [True] * 3, [True, True, False]]


def test_neighbours_are_those_that_read_one_another(costs):
    assert costs.neighbours == ((0, 1, 4 * 6 * 6), (1, 2, 8 * 4 * 4))
    assert costs.converted(costs.indices({"0": "W8A8", "2": "float", "4": "float"})) == 4 * 6 * 6


def test_fits_recover_the_factors_that_points_were_made_with(costs):
    true = dataclasses.replace(costs, noise=costs.noise * np.array([1.0, 0.5, 0.3]), per_element=5e-6)
    generator = np.random.default_rng(0)
    points = []
    for number in range(30):
        columns = [generator.choice(np.flatnonzero(row)) for row in costs.allowed]
        formats = costs.named(columns)
        noise = true.predicted(formats, LOSS)
        points.append(
            Point(
                str(number),
                "openvino",
                "static",
                formats,
                search_ms=1e3 * true.predicted(formats, LATENCY),
                size_bytes=round(true.predicted(formats, SIZE)),
                sqnr_db=-10 * np.log10(noise) if noise else None,
            )
        )
    found = refitted(costs, points)
    for formats in ({"0": "W4A8", "2": "float", "4": "W8A8"}, {"0": "float", "2": "W8A8", "4": "float"}):
        for objective in (LOSS, LATENCY, SIZE):
            told = found.predicted(formats, objective)
            assert told == pytest.approx(true.predicted(formats, objective), rel=0.05)


def test_points_that_failed_do_not_count(costs):
    failed = Point("x", "openvino", "static", {"*": "W8A8"}, error="no kernel")
    assert refitted(costs, [failed]) is costs
