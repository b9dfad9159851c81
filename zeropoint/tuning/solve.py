"""Solve: the format of each layer that costs least within limits, as an integer linear program."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

import numpy as np

from zeropoint.errors import InputError
from zeropoint.tuning.budget import LATENCY
from zeropoint.tuning.costs import Array, Costs

GAP = 1e-4  # of the optimum, at which the solver may stop
SECONDS = 20.0


def solve(costs: Costs, objective: str, limits: Mapping[str, float]) -> dict[str, str] | None:
    """The format of each layer with the least of ``objective`` within ``limits``; None if nothing is within.

    ``limits`` are by objective, in its unit. One variable for each layer and format is 0 or 1, of each layer
    one is 1; another for each pair of neighbours is 1 if only one of them computes in integers.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers, formats = costs.noise.shape
    choices, pairs = layers * formats, len(costs.neighbours)
    one_each = np.hstack([np.kron(np.eye(layers), np.ones(formats)), np.zeros((layers, pairs))])
    constraints = [LinearConstraint(one_each, 1, 1)]
    if pairs:
        constraints.append(LinearConstraint(_conversions(costs), -np.inf, 0))
    for name, most in limits.items():
        row = _row(costs, name)
        scale = max(most, 1e-30)
        constraints.append(
            LinearConstraint(row[None] / scale, -np.inf, (most - costs.base.get(name, 0.0)) / scale)
        )
    wanted = _row(costs, objective)
    # Of choices alike in the objective, the one of less noise, and of less of everything else.
    for other in limits:
        if other != objective:
            row = _row(costs, other)
            wanted = wanted / max(wanted.max(), 1e-30) + 1e-6 * row / max(row.max(), 1e-30)
    upper = np.concatenate([costs.allowed.ravel().astype(float), np.ones(pairs)])
    with _quiet():
        found = milp(
            wanted / max(wanted.max(), 1e-30),
            constraints=constraints,
            integrality=np.concatenate([np.ones(choices), np.zeros(pairs)]),
            bounds=Bounds(0, upper),
            options={"mip_rel_gap": GAP, "time_limit": SECONDS},
        )
    if found.x is None:
        return None
    columns = found.x[:choices].reshape(layers, formats).argmax(1)
    return costs.named(columns.tolist())


def _row(costs: Costs, objective: str) -> Array:
    """What each variable adds to an objective."""
    elements = np.array([size for _, _, size in costs.neighbours], float)
    time = costs.per_element if objective == LATENCY else 0.0
    return np.concatenate([costs.table(objective).ravel(), time * elements])


def _conversions(costs: Costs) -> Array:
    """Rows that are at most 0 where the variable of a pair is at least how far its layers differ."""
    layers, formats = costs.noise.shape
    pairs = len(costs.neighbours)
    rows = np.zeros((2 * pairs, layers * formats + pairs))
    integer = costs.integer.astype(float)
    for number, (one, other, _) in enumerate(costs.neighbours):
        for row, sign in ((2 * number, 1.0), (2 * number + 1, -1.0)):
            rows[row, one * formats : (one + 1) * formats] += sign * integer
            rows[row, other * formats : (other + 1) * formats] -= sign * integer
            rows[row, layers * formats + number] = -1.0
    return rows


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is written to stdout: HiGHS prints lines of its own there, whatever it is told."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def check_solver() -> None:
    """Raises InputError if the solver is not installed."""
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise InputError("tune needs scipy; run: pip install 'zeropoint[tune]'") from error
