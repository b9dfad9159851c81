"""SQNR by hand and in NumPy."""

import math

import numpy as np
import pytest
import torch

from zeropoint.numerics.sqnr import sqnr_db


def test_by_hand():
    # A power of 25 and a noise of 1, of 0.01, and of 100.
    signal = torch.tensor([3.0, -4.0])
    assert sqnr_db(signal, torch.tensor([3.0, -5.0])) == pytest.approx(10 * math.log10(25))
    assert sqnr_db(signal, torch.tensor([3.06, -4.08])) == pytest.approx(10 * math.log10(2500), rel=1e-5)
    assert sqnr_db(signal, torch.tensor([9.0, 4.0])) == pytest.approx(10 * math.log10(0.25))


def test_against_numpy_on_a_matrix():
    signal, noise = np.random.default_rng(0).normal(size=(2, 30, 7))
    expected = 20 * np.log10(np.linalg.norm(signal) / np.linalg.norm(0.1 * noise))
    assert sqnr_db(torch.tensor(signal), torch.tensor(signal + 0.1 * noise)) == pytest.approx(expected)


def test_equal_tensors_and_no_signal():
    assert sqnr_db(torch.ones(3), torch.ones(3)) == math.inf
    assert sqnr_db(torch.zeros(3), torch.ones(3)) == math.inf


def test_a_parameter(recwarn):
    assert sqnr_db(torch.nn.Parameter(torch.ones(3)), torch.zeros(3)) == 0
    assert not recwarn.list
