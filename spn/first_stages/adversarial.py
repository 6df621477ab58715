"""The adversarial loss of VQGAN (Esser et al. 2021, Section 3.1): hinge, patch discriminator, adaptive weight.

One backward pass trains both networks: the auto-encoder's term sees the discriminator's weights as constants, and the
discriminator's term sees the reconstruction as a constant.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from spn.config.first_stage import AdversarialSection
from spn.distributed import mean
from spn.shapes import Features, PerImage, Values, Vectors

SLOPE = 0.2
"""Of leaky rectifiers, as in all patch discriminators."""
LARGEST_RATIO = 1e4
"""Bound on the adaptive weight; VQGAN's."""
SMALL_NORM = 1e-4
"""Added to the norm that the adaptive weight is divided by; VQGAN's."""


class _Strided(nn.Module):
    """A 4x4 convolution that halves height and width, and the norm of every position by itself."""

    def __init__(self, num_in: int, width: int, is_normalised: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, width, 4, stride=2, padding=1)
        self.norm = nn.LayerNorm(width) if is_normalised else nn.Identity()

    def forward(self, features: Features) -> Vectors:
        hidden = self.conv(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return F.leaky_relu(self.norm(hidden), SLOPE)


class PatchDiscriminator(nn.Module):
    """Tells real from reconstructed patches: one logit for each."""

    def __init__(self, section: AdversarialSection, channels: int) -> None:
        super().__init__()
        widths = [channels, *(section.width << min(layer, 3) for layer in range(section.layers))]
        self.layers = nn.Sequential(
            *(_Strided(num_in, width, layer > 0) for layer, (num_in, width) in enumerate(pairwise(widths)))
        )
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, values: Values) -> Vectors:
        """Return the logits of patches [batch, row, column, 1], larger for real ones."""
        logits = self.last(self.layers(values))
        return logits.to(self.last.weight.dtype)  # because losses are not of the type of an autocast


class Adversary(nn.Module):
    """The discriminator, and the terms that it adds to the loss of an auto-encoder."""

    def __init__(self, section: AdversarialSection, channels: int) -> None:
        super().__init__()
        self.section = section
        self.discriminator = PatchDiscriminator(section, channels)

    def terms(
        self, values: Values, reconstruction: Values, distance: PerImage, last_weight: Tensor, progress: float
    ) -> dict[str, PerImage]:
        """Return the terms of the auto-encoder (`adversarial`) and of the discriminator; both are 0 before the start.

        `distance` is the other loss of the reconstruction, `last_weight` that of the decoder's last layer, and
        `progress` the share of the training's steps that are done.
        """
        if progress < self.section.start:
            return dict.fromkeys(("adversarial", "discriminator"), torch.zeros_like(distance))
        deceit = -self._constant(reconstruction).mean((1, 2, 3))
        weight = self._weight(progress) * adaptive_weight(distance, deceit, last_weight)
        real, fake = self.discriminator(values), self.discriminator(reconstruction.detach())
        hinge = F.relu(1 - real) + F.relu(1 + fake)
        return {"adversarial": weight * deceit, "discriminator": hinge.mean((1, 2, 3)) / 2}

    def _constant(self, values: Values) -> Vectors:
        """Apply the discriminator with constant weights."""
        weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, weights, (values,))

    def _weight(self, progress: float) -> float:
        """Return the factor on the adaptive weight, which rises linearly from the start on."""
        section = self.section
        risen = (progress - section.start) / section.warmup if section.warmup else 1.0
        return section.weight * min(1.0, risen)


def adaptive_weight(distance: PerImage, deceit: PerImage, last_weight: Float[Tensor, "_ _"]) -> Float[Tensor, ""]:
    """Return the ratio of the norms of two losses' gradients at the decoder's last layer, as a constant.

    The losses are means over the batch: over the shares of all processes, which may differ by an image.
    """
    norms = []
    for loss in (distance, deceit):
        (gradient,) = torch.autograd.grad(loss.sum(), last_weight, retain_graph=True)
        total = mean(torch.cat((gradient.flatten(), gradient.new_tensor([len(loss)]))))
        norms.append((total[:-1] / total[-1]).norm())
    return (norms[0] / (norms[1] + SMALL_NORM)).clamp(max=LARGEST_RATIO)
