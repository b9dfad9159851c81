"""Promise: whether float32 reaches, on the user's data, what its weights are known for."""

import math
import warnings
from collections.abc import Mapping

from zeropoint.errors import InputWarning
from zeropoint.models.source import Promise

# Nearly what images of another collection cost: on a second test set of ImageNet, networks lose 11 to 14
# points of top-1 (Recht et al. 2019). Who loses as much on their own images should look why.
LIMIT = 0.1
DEVIATIONS = 3  # standard deviations that are taken for chance: a mean is further below once in 740 times


def warn_of_shortfall(promise: Promise | None, values: Mapping[str, float | None], images: int) -> None:
    """Warns if the first of the metrics of float32, a fraction of 1, is far below the promise.

    Far is LIMIT and what chance may do: of a mean over ``images`` of values from 0 to 1, the variance is at
    most p (1 - p) / images, where p is the mean (Bhatia and Davis 2000).
    """
    name, value = next(iter(values.items()), ("", None))
    if promise is None or value is None or name != promise.metric or not images:
        return
    chance = DEVIATIONS * math.sqrt(promise.value * (1 - promise.value) / images)
    if value < promise.value - LIMIT - chance:
        warnings.warn(
            f"float32 has {name} {value:.1%} on {images:,} images, and its weights promise"
            f" {promise.value:.1%} on {promise.data}; the commonest cause is another preprocessing of the"
            " images, or another order of the classes",
            InputWarning,
            stacklevel=2,
        )
