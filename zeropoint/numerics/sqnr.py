"""SQNR: the signal to quantization noise ratio."""

import math

from torch import Tensor


def sqnr_db(signal: Tensor, noisy: Tensor) -> float:
    """``10 log10(sum(signal²) / sum((noisy - signal)²))`` in dB; infinite if equal, or without a signal.

    Tensors of one shape, summed in float64.
    """
    signal, noisy = signal.detach().double(), noisy.detach().double()  # a parameter may be an output
    power = float(signal.square().sum())
    noise = float((noisy - signal).square().sum())
    return 10 * math.log10(power / noise) if power and noise else math.inf
