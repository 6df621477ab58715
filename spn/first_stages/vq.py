"""The VQ auto-encoder, the first stage of ImageBART (Esser, Rombach, Blattmann and Ommer 2021, Section 3.1).

NOTE: the paper's loss always has a perceptual term. Here it is off by default, because its network has to be brought.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from spn.config.first_stage import VqSection
from spn.first_stages.adversarial import Adversary
from spn.first_stages.networks import Decoder, Encoder
from spn.first_stages.perceptual import Perceptual
from spn.first_stages.quantiser import Quantiser
from spn.layers.intensity import scale_levels
from spn.shapes import Codes, Levels, PerImage, Values


class VqAutoencoder(nn.Module):
    """An encoder, a codebook, a decoder, and in training perhaps a discriminator."""

    def __init__(self, section: VqSection, channels: int, num_levels: int) -> None:
        super().__init__()
        self.section, self.num_levels = section, num_levels
        self.encoder, self.decoder = Encoder(section, channels), Decoder(section, channels)
        self.quantiser = Quantiser(section.codebook, section.code_width, section.restart_after)
        self.adversary = Adversary(section.adversarial, channels) if section.adversarial else None
        self.perceptual = Perceptual(section.perceptual) if section.perceptual else None

    @torch.no_grad()
    def initialise(self, levels: Levels) -> None:
        """Draw the first codebook from the encoder's outputs on a first batch."""
        self.quantiser.initialise(self.encoder(self._scale(levels)))

    @torch.no_grad()
    def encode(self, levels: Levels) -> Codes:
        """Return the codes of images: height and width are divided by the down-sampling."""
        return self.quantiser.nearest(self.encoder(self._scale(levels)))

    @torch.no_grad()
    def decode(self, codes: Codes) -> UInt8[Tensor, "batch height width channel"]:
        """Return the image of any codes: the levels nearest to the decoder's output."""
        values = self.decoder(self.quantiser.lookup(codes))
        top = self.num_levels - 1
        return ((values.clamp(-1, 1) + 1) * (top / 2)).round().to(torch.uint8)

    def loss(self, levels: Levels, progress: float) -> tuple[PerImage, dict[str, Float[Tensor, ""]]]:
        """Return the loss of each image, and figures of the batch as constants.

        `progress` is the share of the training's steps that are done. The figures are the means of the terms that add
        up to the loss, and `codes_used`, the share of the codebook that the batch uses. In training mode this restarts
        unused codes. An adversarial loss needs gradients to be enabled.
        """
        values = self._scale(levels)
        quantised = self.quantiser(self.encoder(values))
        reconstruction = self.decoder(quantised.vectors)
        terms = {"reconstruction": (reconstruction - values).abs().mean((1, 2, 3))}
        if self.perceptual:
            terms["perceptual"] = self.perceptual.section.weight * self.perceptual.distance(reconstruction, values)
        distance = torch.stack(list(terms.values())).sum(0)
        terms |= {"codebook": quantised.codebook, "commitment": self.section.commitment * quantised.commitment}
        if self.adversary:
            last = self.decoder.last.weight
            terms |= self.adversary.terms(values, reconstruction, distance, last, progress)
        figures = {name: term.detach().mean() for name, term in terms.items()}
        # Not torch.unique, for whose result a device would have to be waited for.
        used = torch.zeros_like(self.quantiser.idle).index_fill_(0, quantised.codes.flatten(), 1)
        figures["codes_used"] = used.to(values.dtype).mean()
        return torch.stack(list(terms.values())).sum(0), figures

    def _scale(self, levels: Levels) -> Values:
        return scale_levels(levels, self.num_levels, self.quantiser.codebook.dtype)
