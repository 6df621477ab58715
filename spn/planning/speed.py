"""How fast a machine works, as three numbers fitted to a few measurements."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from spn.planning.work import Work


@dataclass(frozen=True)
class Speed:
    """Seconds per FLOP, per kernel called, and per byte that kernels read or write."""

    per_flop: float
    per_call: float
    per_byte: float

    def seconds(self, work: Work) -> float:
        """Estimate how long `work` takes."""
        return self.per_flop * work.flops + self.per_call * work.calls + self.per_byte * work.bytes


def fit_speed(measured: Sequence[tuple[Work, float]]) -> Speed:
    """Fit a speed to works and their seconds: least squares of relative errors, none of the three below 0."""
    works = torch.tensor([(work.flops, work.calls, work.bytes) for work, _ in measured], dtype=torch.float64)
    relative = works / torch.tensor([[seconds] for _, seconds in measured], dtype=torch.float64)
    scale = relative.amax(0)
    # With three unknowns it is simplest to try every choice of zeros: the best admissible fit is one of seven.
    subsets = [list(chosen) for size in (1, 2, 3) for chosen in combinations(range(3), size)]
    fits = [_least_squares(relative / scale, chosen) for chosen in subsets]
    _, best = min(((error, fit) for error, fit in fits if bool((fit >= 0).all())), key=lambda each: each[0])
    return Speed(*(best / scale).tolist())


def _least_squares(columns: Tensor, chosen: list[int]) -> tuple[float, Tensor]:
    """Weigh the chosen columns so that every row adds up to 1; return the squared error and all weights."""
    ones = columns.new_ones(len(columns), 1)
    weights = columns.new_zeros(columns.shape[1])
    weights[chosen] = torch.linalg.lstsq(columns[:, chosen], ones).solution[:, 0]
    return float((columns @ weights - 1).square().sum()), weights
