"""The earlier name of ``TrainingOptions``, until ``targets.options`` uses the new one."""

from zeropoint.training.options import TrainingOptions as Recipe

__all__ = ["Recipe"]
