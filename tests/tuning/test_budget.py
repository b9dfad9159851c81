"""Budgets: what is read from the command line, and what is refused before any work."""

import pytest

from zeropoint.errors import InputError
from zeropoint.tuning.budget import DURATIONS, LATENCY, LOSS, SIZE, SIZES, TIMES, Budget, quantity


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("4MB", SIZES, 4e6),
        ("4 MiB", SIZES, 4 * 2**20),
        ("1.5kb", SIZES, 1500),
        ("3ms", TIMES, 0.003),
        ("250us", TIMES, 0.00025),
        ("10min", DURATIONS, 600),
        ("1e2s", DURATIONS, 100),
    ],
)
def test_quantities(text, units, value):
    assert quantity(text, units, "--max") == pytest.approx(value)


@pytest.mark.parametrize("text", ["4", "MB", "4 furlongs", "4.4.4MB", "-"])
def test_what_is_no_quantity_names_the_option_and_an_example(text):
    with pytest.raises(InputError, match=r"--max-size .* is no quantity; .*as in 4KB"):
        quantity(text, SIZES, "--max-size")


@pytest.mark.parametrize(
    ("given", "objective"),
    [
        ({"max_drop": 0.5}, LATENCY),
        ({"min_sqnr": 30, "minimize": SIZE}, SIZE),
        ({"max_size": 1e6}, LOSS),
        ({"max_size": 1e6, "max_latency": 0.1}, LOSS),
        ({"frontier": True}, LATENCY),
    ],
)
def test_objectives(given, objective):
    assert Budget(**given).objective == objective


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "there is no budget"),
        ({"minimize": LATENCY}, "of a useless model; add --max-drop"),
        ({"minimize": SIZE, "max_latency": 1.0}, "of a useless model"),
        ({"max_size": -4.0}, r"--max-size -4 bytes is met by no model"),
        ({"max_latency": 0.0}, r"--max-latency 0 seconds is met by no model"),
        ({"min_sqnr": float("inf")}, "--min-sqnr inf dB"),
        ({"max_drop": "much"}, "--max-drop much is no amount"),
        ({"max_drop": 1, "minimize": "joy"}, "joy"),
    ],
)
def test_budgets_that_say_nothing_or_that_nothing_keeps(given, message):
    with pytest.raises(InputError, match=message):
        Budget(**given)


def test_a_budget_in_words():
    budget = Budget(max_drop="2%", max_size=4e6, max_latency=0.003)
    assert str(budget) == "the least latency with a drop of at most 2% and at most 4 MB and at most 3 ms"
    assert str(Budget(frontier=True)) == "the whole curve"
