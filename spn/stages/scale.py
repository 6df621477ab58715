"""A scale of ImageBART (Esser et al. 2021, Sec. 3.2): a stage that generates the levels of scale t - 1 from those of t.

The levels of scale t stand in the image in place of the cells that the stage generates, so that contexts are gathered,
and targets inserted, as in any other stage. The forward process draws both scales.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from spn.config import StagePlan
from spn.diffusion import noised, posterior
from spn.likelihood import Law
from spn.models import Context, Model
from spn.shapes import Labels, Levels, Positions, Slices
from spn.stages.cells import Stage


class Scale(Stage):
    """The targets and contexts of one scale, for whole images (S = 1)."""

    def __init__(self, plan: StagePlan, shape: tuple[int, int, int], device: torch.device) -> None:
        assert plan.noise is not None, "a stage of another kind"
        super().__init__(plan, shape, device)
        self.noise = noise = plan.noise
        self.shape = replace(self.shape, kept=None if noise.is_last else noise.survival)
        # With one scale there is nothing to draw.
        self.draws = 1 if noise.num_scales == 1 else noise.draws

    def context(self, slices: Slices, position: Positions, labels: Labels | None = None) -> Context:
        """Gather the context of each image; its cells hold the levels of scale t, unless t is the last."""
        context = super().context(slices, position, labels)
        return context if self.noise.is_last else replace(context, noised=self.target(slices, position))

    def sub_pixel_nats(
        self, model: Model, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> Float[Tensor, "batch height width channel"]:
        """Return what every sub-pixel adds to this scale's `term`, in nats, for one draw of both scales."""
        return self._terms(model, slices, position, labels, *self.draw(self.target(slices, position)))

    def loss(
        self, model: Model, slices: Slices, position: Positions, labels: Labels | None = None
    ) -> Float64[Tensor, " batch"]:
        """Return what training minimises, in nats: `nats`, or the cross-entropy with the draw of scale t - 1."""
        if self.noise.objective == "kl":
            return self.nats(model, slices, position, labels)
        earlier, later = self.draw(self.target(slices, position))
        cross_entropy = -self._law(model, slices, position, labels, earlier, later).log_prob(earlier)
        return cross_entropy.flatten(1).sum(1, dtype=torch.float64)

    def draw(self, clean: Levels) -> tuple[Levels, Levels]:
        """Draw scales t - 1 and t from the forward process, from torch's generator."""
        num_levels = self.plan.num_levels
        of_earlier, of_later = torch.rand((2, 2, *clean.shape), device=clean.device)
        earlier = noised(clean, self._kept, num_levels, *of_earlier)
        return earlier, noised(earlier, self.noise.survival, num_levels, *of_later)

    def term(
        self,
        model: Model,
        slices: Slices,
        position: Positions,
        labels: Labels | None,
        earlier: Levels,
        later: Levels,
    ) -> Float64[Tensor, " batch"]:
        """Return this scale's term of the bound, given the draws of scales t - 1 (`earlier`) and t (`later`).

        At scale 1 it is -log p(x_0 | x_1). Above, it is the sum over sub-pixels of the KL divergence of
        p(x_{t-1} | the sub-pixels of x_{t-1} before, x_t) from q(x_{t-1} | x_t, x_0), in closed form for each of them.
        The last scale has no further term, because it is uniform noise under both.
        """
        terms = self._terms(model, slices, position, labels, earlier, later)
        return terms.flatten(1).sum(1, dtype=torch.float64)

    def _terms(
        self,
        model: Model,
        slices: Slices,
        position: Positions,
        labels: Labels | None,
        earlier: Levels,
        later: Levels,
    ) -> Float[Tensor, "batch height width channel"]:
        law = self._law(model, slices, position, labels, earlier, later)
        if self.noise.scale == 1:
            return -law.log_prob(earlier)
        clean = self.target(slices, position)
        weights = posterior(clean, later, self._kept, self.noise.survival, self.plan.num_levels)
        return torch.xlogy(weights, weights).sum(-1) - law.expected_log_prob(weights)

    @property
    def _kept(self) -> float:
        """The probability that a level of x_0 survives up to scale t - 1."""
        return self.noise.kept[self.noise.scale - 1]

    def _law(
        self,
        model: Model,
        slices: Slices,
        position: Positions,
        labels: Labels | None,
        earlier: Levels,
        later: Levels,
    ) -> Law:
        """Return the laws of scale t - 1, given that scale so far and scale t."""
        (only,) = self.targets
        return model(earlier, self.context(self.insert(slices, only, later), position, labels))


def build(plan: StagePlan, shape: tuple[int, int, int], device: torch.device) -> Scale:
    """Build the stage of a plan that is a scale of a diffusion."""
    return Scale(plan, shape, device)
