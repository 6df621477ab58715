"""Multinomial diffusion (ImageBART, Esser et al. 2021, Sec. 3.2): schedules, and the `diffusion` section of a stage.

The forward process turns codes into noise, scale by scale: at scale t it keeps a code with probability 1 - beta_t, and
else replaces it by a uniform one. A code survives the first t scales with probability alpha_bar_t, called `kept` here.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from spn.config.section import Count, Name, Section

Share = Annotated[float, Field(ge=0, lt=1)]


class GeometricSchedule(Section):
    """beta_t = 1 / (n - t + 1): every one of n scales replaces as many codes as the others."""

    name: Literal["geometric"]
    """Equal steps of `kept` (the paper's name)."""
    scales: Count
    """Number of scales, n."""

    @property
    def kept(self) -> tuple[float, ...]:
        """The probability that a code survives 0, 1, ... n scales."""
        return tuple(1 - scale / self.scales for scale in range(self.scales + 1))


class ListedSchedule(Section):
    """A schedule by its shares of codes that are kept."""

    name: Literal["listed"]
    """Numbers from elsewhere, such as the paper's."""
    shares: Annotated[tuple[Share, ...], Field(min_length=1)]
    """For each scale the probability that a code survives up to there; they fall, and the last is 0."""

    @field_validator("shares")
    @classmethod
    def _end_in_noise(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if shares[-1] != 0:
            raise ValueError(f"expected a schedule that ends in noise, which keeps 0 of the codes, got {shares[-1]:g}")
        if any(before <= after for before, after in pairwise(shares)):
            raise ValueError(f"expected shares that fall from scale to scale, got {list(shares)}")
        return shares

    @property
    def scales(self) -> int:
        """Number of scales."""
        return len(self.shares)

    @property
    def kept(self) -> tuple[float, ...]:
        """The probability that a code survives 0, 1, ... n scales."""
        return (1.0, *self.shares)


class SpacedSchedule(Section):
    """Shares that are measured: every scale adds the same distortion to the images decoded from the noised codes.

    They are known once the first stage is trained and its codes are made. Of pixels, distortion is linear in the share
    of levels replaced, so the geometric schedule is their spaced one.
    """

    name: Literal["spaced"]
    """Equal steps of distortion, the paper's perceptual spacing with our measure (mean absolute difference)."""
    scales: Count
    """Number of scales."""

    @property
    def kept(self) -> tuple[float, ...]:
        """The shares of a geometric schedule, for what does not depend on them: shapes, and costs."""
        return GeometricSchedule(name="geometric", scales=self.scales).kept


ScheduleSection: TypeAlias = Annotated[GeometricSchedule | ListedSchedule | SpacedSchedule, Field(discriminator="name")]

Objective: TypeAlias = Literal["kl", "cross_entropy"]


class DiffusionSection(Section):
    """Makes a stage one scale of a diffusion: it generates the codes of scale t - 1, given those of scale t.

    The codes of scale 0 are the cells of the image; those of the last scale are uniform noise, so that its stage is
    conditioned on none. The stages of a chain list all scales of a schedule, the last first.
    """

    schedule: Name
    """A key of `schedules`."""
    scale: Count
    """The scale t, counted from 1, which generates the cells of the image."""
    objective: Objective = "kl"
    """What training minimises above scale 1: the `kl` divergence from the posterior of each code, or the
    `cross_entropy` with a draw from it, whose gradient has the same mean but more noise. At scale 1 both are the
    negative log-likelihood."""
    draws: Count = 8
    """Draws of noise for each image in evaluation, whose figure is their mean (ours)."""


@dataclass(frozen=True)
class Noise:
    """What a scale of a diffusion is trained on: its number t, and the schedule's `kept`, from scale 0 (1) to n (0)."""

    scale: int
    kept: tuple[float, ...]
    objective: Objective = "kl"
    draws: int = 8
    is_measured: bool = True
    """Whether `kept` is known; that of a spaced schedule has to be measured first."""

    @property
    def num_scales(self) -> int:
        """Number of scales of the schedule, n."""
        return len(self.kept) - 1

    @property
    def is_last(self) -> bool:
        """Whether scale t is noise alone; its stage is the first of a chain."""
        return self.scale == self.num_scales

    @property
    def survival(self) -> float:
        """The probability 1 - beta_t that a code of scale t - 1 is kept at scale t."""
        return self.kept[self.scale] / self.kept[self.scale - 1]
