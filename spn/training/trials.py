"""The choice among the trials of a stage."""

import math
from collections.abc import Sequence


def best_trial(estimates: Sequence[float]) -> int:
    """Return the trial with the lowest validation estimate, the first if several have it; NaN is the worst."""
    return min(range(len(estimates)), key=lambda trial: (math.isnan(estimates[trial]), estimates[trial]))
