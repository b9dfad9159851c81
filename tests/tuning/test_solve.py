"""The integer program: against all combinations, tried one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeropoint.tuning.budget import LATENCY, LOSS, SIZE
from zeropoint.tuning.costs import Costs
from zeropoint.tuning.solve import solve

FORMATS = ("float", "W8A8", "W4A8")
OBJECTIVES = (LATENCY, SIZE, LOSS)


def costs(seed: int, layers: int = 4, holes: bool = True) -> Costs:
    """Random ones, with neighbours in a chain and across it; some choices are not allowed."""
    generator = np.random.default_rng(seed)
    tables = generator.uniform(0.1, 1.0, (3, layers, len(FORMATS)))
    allowed = generator.uniform(size=(layers, len(FORMATS))) > (0.2 if holes else -1)
    allowed[:, 0] = True
    neighbours = [(i, i + 1, int(generator.integers(1, 9))) for i in range(layers - 1)] + [(0, layers - 1, 3)]
    base = {LATENCY: 0.3, SIZE: 0.2}
    names = tuple(f"layer{i}" for i in range(layers))
    return Costs(names, FORMATS, *tables, allowed, base, tuple(neighbours), per_element=0.05)


def every(costs: Costs):
    """All combinations that are allowed, each with what it costs."""
    for columns in itertools.product(range(len(FORMATS)), repeat=len(costs.layers)):
        if costs.allowed[np.arange(len(columns)), columns].all():
            formats = costs.named(columns)
            yield formats, {name: costs.predicted(formats, name) for name in OBJECTIVES}


def test_a_prediction_by_hand():
    one = costs(0, layers=2)
    formats = {"layer0": "W8A8", "layer1": "float"}
    converted = 0.05 * (one.neighbours[0][2] + 3)  # both pairs of neighbours differ
    wanted = 0.3 + one.seconds[0, 1] + one.seconds[1, 0] + converted
    assert one.predicted(formats, LATENCY) == pytest.approx(wanted)
    assert one.predicted({"*": "float"}, SIZE) == pytest.approx(0.2 + one.bytes[:, 0].sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(OBJECTIVES), st.floats(0.2, 1.0), st.floats(0.2, 1.0))
def test_nothing_within_the_limits_costs_less(seed, objective, first, second):
    one = costs(seed)
    others = [name for name in OBJECTIVES if name != objective]
    table = list(every(one))
    limits = {}
    for name, share in zip(others, (first, second), strict=True):
        values = sorted(cost[name] for _, cost in table)
        limits[name] = values[int(share * (len(values) - 1))] * (1 + 1e-6)
    within = [cost for _, cost in table if all(cost[name] <= limits[name] for name in others)]
    found = solve(one, objective, limits)
    if not within:
        assert found is None
        return
    assert found is not None
    for name in others:
        assert one.predicted(found, name) <= limits[name] * (1 + 1e-5)
    assert one.predicted(found, objective) <= min(cost[objective] for cost in within) * (1 + 2e-3)


def test_what_is_printed_by_the_solver_does_not_reach_stdout(capfd):
    for seed in range(5):
        solve(costs(seed, layers=12), LATENCY, {LOSS: 5.0, SIZE: 6.0})
    assert capfd.readouterr().out == ""


def test_conversions_join_what_stands_together():
    """Alone, each layer is a little faster in turn; what converting costs outweighs that."""
    seconds = np.array([[1.0, 0.9], [0.9, 1.0], [1.0, 0.9]])
    zeros, allowed = np.zeros((3, 2)), np.ones((3, 2), bool)
    names, base = ("a", "b", "c"), {LATENCY: 0.0, SIZE: 0.0}

    def found(per_element: float) -> list[str]:
        pairs = ((0, 1, 1), (1, 2, 1))
        one = Costs(names, FORMATS[:2], zeros, seconds, zeros, allowed, base, pairs, per_element)
        formats = solve(one, LATENCY, {})
        assert formats is not None
        return list(formats.values())

    assert found(0.0) == ["W8A8", "float", "W8A8"]
    assert found(0.2) == ["W8A8", "W8A8", "W8A8"]
