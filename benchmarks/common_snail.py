"""A PixelSNAIL (Chen et al. 2018) in the style common in public code, and the sampler that goes with it.

Masked 3x3 convolutions in NCHW, blocks of gated residual layers followed by materialised attention, and a full forward
pass for every draw.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common_style import MaskedConv2d


def raster_mask(strict: bool) -> Tensor:
    """Admit the taps of a 3x3 kernel before the pixel in raster order, and the pixel itself unless `strict`."""
    mask = torch.ones(9)
    mask[4 if strict else 5 :] = 0
    return mask.view(1, 1, 3, 3)


class GatedResidual(nn.Module):
    """Two masked convolutions, gated, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = MaskedConv2d(width, width, (3, 3), raster_mask(strict=False))
        self.second = MaskedConv2d(width, 2 * width, (3, 3), raster_mask(strict=False))

    def forward(self, features: Tensor) -> Tensor:
        """Advance [batch, feature, height, width]."""
        value, gate = self.second(F.elu(self.first(F.elu(features)))).chunk(2, dim=1)
        return features + value * torch.sigmoid(gate)


class SnailBlock(nn.Module):
    """Gated residual layers, then causal attention over all pixels, then a 1x1 convolution of both."""

    def __init__(self, width: int, residuals: int, key_width: int, num_pixels: int) -> None:
        super().__init__()
        self.residuals = nn.Sequential(*(GatedResidual(width) for _ in range(residuals)))
        self.queries = nn.Conv2d(width, key_width, 1)
        self.keys = nn.Conv2d(width, key_width, 1)
        self.values = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(2 * width, width, 1)
        self.register_buffer("mask", torch.tril(torch.ones(num_pixels, num_pixels)))

    def forward(self, features: Tensor) -> Tensor:
        """Advance [batch, feature, height, width]."""
        features = self.residuals(features)
        queries, keys, values = (each(features).flatten(2) for each in (self.queries, self.keys, self.values))
        weights = queries.transpose(1, 2) @ keys / queries.shape[1] ** 0.5
        weights = weights.masked_fill(self.get_buffer("mask") == 0, float("-inf")).softmax(-1)
        attended = (values @ weights.transpose(1, 2)).view_as(features)
        return self.out(torch.cat((features, attended), dim=1))


class CommonPixelSnail(nn.Module):
    """Attention and convolutions over whole pixels, and logits for every channel of a pixel."""

    def __init__(
        self, size: int, channels: int, num_levels: int, width: int, blocks: int, residuals: int, key_width: int
    ) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        self.num_levels = num_levels
        self.entry = MaskedConv2d(channels, width, (3, 3), raster_mask(strict=True))
        self.blocks = nn.Sequential(*(SnailBlock(width, residuals, key_width, size * size) for _ in range(blocks)))
        self.logits = nn.Conv2d(width, channels * num_levels, 1)

    def forward(self, levels: Tensor) -> Tensor:
        """Return the logits [batch, channel, level, height, width] of levels [batch, channel, height, width]."""
        scaled = levels.to(self.logits.weight.dtype) * (2 / (self.num_levels - 1)) - 1
        logits = self.logits(F.elu(self.blocks(self.entry(scaled))))
        return logits.unflatten(1, (self.shape[0], self.num_levels))


@torch.inference_mode()
def sample(model: CommonPixelSnail, batch: int, steps: int) -> Tensor:
    """Draw the first `steps` pixels of images, by a forward pass over the whole image for each."""
    channels, height, width = model.shape
    levels = torch.zeros(batch, channels, height, width)
    for row, column in [divmod(step, width) for step in range(steps)]:
        law = model(levels)[..., row, column].softmax(-1)
        levels[..., row, column] = torch.multinomial(law.flatten(0, 1), 1).view(batch, channels).float()
    return levels
