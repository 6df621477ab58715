"""The exponential moving average (EMA) of the weights, which is evaluated and sampled (Polyak averaging)."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EmaModel:
    """A copy of a model whose weights are an exponential moving average (EMA) of the model's.

    At step t: average <- d average + (1 - d) weights, with d = min(decay, (1 + t) / (10 + t)), so that the random
    initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averages, self._weights = list(self.model.parameters()), list(model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model's weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        move = get_ema_multi_avg_fn(decay)
        move(self._averages, self._weights, step)
