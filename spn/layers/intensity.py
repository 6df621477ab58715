"""Embeds levels for a network, element by element, so that no pixels or channels are mixed."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Intensity(nn.Module, ABC):
    """Turns levels into vectors of `units` numbers; an absent level is distinguishable from every present one."""

    units: int

    @abstractmethod
    def forward(self, levels: Int[Tensor, "*batch"], present: Bool[Tensor, "*batch"]) -> Float[Tensor, "*batch units"]:
        """Embed levels 0 .. num_levels - 1 if `present`, or else their absence."""


def scale_levels(levels: Int[Tensor, "*batch"], num_levels: int, dtype: torch.dtype) -> Float[Tensor, "*batch"]:
    """Scale levels 0 .. num_levels - 1 to [-1, 1]."""
    return levels.to(dtype) * (2 / (num_levels - 1)) - 1


class ScaledIntensity(Intensity):
    """The level scaled to [-1, 1], and a plane that is 1 if a level is present and else 0."""

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.units = 2
        self.num_levels = num_levels
        self.register_buffer("dtype_of_weights", torch.zeros(()), persistent=False)

    def forward(self, levels: Int[Tensor, "*batch"], present: Bool[Tensor, "*batch"]) -> Float[Tensor, "*batch units"]:
        """Embed levels as (2 level / (num_levels - 1) - 1, 1), and absence as (0, 0)."""
        present_plane = present.to(self.get_buffer("dtype_of_weights").dtype)
        scaled = scale_levels(levels, self.num_levels, present_plane.dtype)
        return torch.stack((scaled * present_plane, present_plane), dim=-1)


class EmbeddedIntensity(Intensity):
    """A learned vector per level, with one more for absence."""

    def __init__(self, num_levels: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.num_levels = num_levels
        self.table = nn.Embedding(num_levels + 1, units)

    def forward(self, levels: Int[Tensor, "*batch"], present: Bool[Tensor, "*batch"]) -> Float[Tensor, "*batch units"]:
        """Look up each level, and the reserved last row for absence."""
        return self.table(torch.where(present, levels.long(), self.num_levels))


def build_intensity(kind: Literal["scaled", "embedded"], num_levels: int, units: int) -> Intensity:
    """Build the `Intensity` that a model's section names."""
    return ScaledIntensity(num_levels) if kind == "scaled" else EmbeddedIntensity(num_levels, units)
