import numpy as np
import pytest

from benchmarks.ratios import compare, fastest, geometric_mean

SAMPLES = {
    "ours slow": np.array([4.0, 4.0, 4.0]),
    "ours": np.array([1.0, 2.0, 30.0]),
    "theirs": np.array([2.0, 8.0, 40.0]),
    "theirs slow": np.array([9.0, 9.0, 9.0]),
}


def test_fastest_rows_are_compared_by_their_medians():
    pair = compare(SAMPLES, ["ours slow", "ours"], ["theirs slow", "theirs"])
    assert pair is not None
    assert (pair.ours, pair.theirs) == ("ours", "theirs")
    assert pair.ratio.median == 0.25  # of the medians 2 and 8
    assert pair.ratio.low <= 0.25 <= pair.ratio.high


def test_rows_that_failed_are_passed_over():
    pair = compare(SAMPLES, ["failed", "ours slow"], ["theirs", "failed"])
    assert pair is not None
    assert (pair.ours, pair.theirs) == ("ours slow", "theirs")
    assert compare(SAMPLES, ["ours"], ["failed"]) is None
    assert fastest(SAMPLES, []) is None


def test_geometric_mean_of_a_ratio_and_its_inverse_is_one():
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
    assert geometric_mean([2.0, 4.0, 8.0]) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="no values"):
        geometric_mean([])
