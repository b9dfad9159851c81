"""How numbers read in a report."""

import math


def figures(value: float, decimals: int = 3) -> str:
    """Three significant figures with at most so many decimals, never an exponent: 0.421, 4.75, 1234."""
    wanted = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(wanted, 0), decimals)}f}"


def ratio(value: float) -> str:
    """A factor: 0.97, 3.43, 26.4."""
    return figures(value, decimals=2)


def percent(fraction: float) -> str:
    """A fraction of 1 in percent, without the sign: 98.61."""
    return f"{100 * fraction:.2f}"


def decibels(sqnr_db: float | None) -> str:
    """An SQNR with its unit; None is infinite."""
    return "∞ dB" if sqnr_db is None else f"{sqnr_db:.1f} dB"
