"""The decoder of `spn.models.spn` in the style common in public code: the same function, written another way.

Features are NCHW; convolutions are full kernels multiplied by a mask in every `forward`; attention materialises its
T x T weights and fills those above the diagonal; the optimiser is torch's default AdamW. With our weights, copied by
`same_weights`, it computes the same laws, so that only the style makes a difference in time and memory.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spn.config import SpnSection
from spn.models import StageShape


class MaskedConv2d(nn.Conv2d):
    """A convolution at constant size, whose weights are multiplied by a mask of zeros and ones."""

    mask: Tensor

    def __init__(self, num_in: int, num_out: int, kernel: tuple[int, int], mask: Tensor) -> None:
        super().__init__(num_in, num_out, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        self.register_buffer("mask", mask.expand(self.weight.shape).clone().float())

    def forward(self, features: Tensor) -> Tensor:
        """Convolve [batch, feature, height, width]."""
        return F.conv2d(features, self.weight * self.mask, self.bias, padding=self.padding)


def rows_mask() -> Tensor:
    """Admit the row above and the row itself of a 3x3 kernel."""
    mask = torch.ones(1, 1, 3, 3)
    mask[:, :, 2] = 0
    return mask


def channels_mask(num_in: int, num_out: int, channels: int, strict: bool) -> Tensor:
    """Admit, at the pixel itself, the earlier image channels (mask A, `strict`), or these and its own (mask B)."""
    group_in = torch.arange(num_in) * channels // num_in
    group_out = torch.arange(num_out) * channels // num_out
    seen = group_out[:, None] > group_in if strict else group_out[:, None] >= group_in
    return seen.float()[:, :, None, None]


class MaterialisedAttention(nn.Module):
    """Causal self-attention over [batch, pixel, width], with the T x T weights in memory."""

    def __init__(self, width: int, heads: int, num_pixels: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.register_buffer("mask", torch.tril(torch.ones(num_pixels, num_pixels)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend from each token to itself and the tokens before."""
        batch, num_pixels, width = tokens.shape
        split = self.queries_keys_values(tokens).split(width, dim=2)
        queries, keys, values = (
            each.view(batch, num_pixels, self.heads, width // self.heads).transpose(1, 2) for each in split
        )
        weights = queries @ keys.transpose(-2, -1) / math.sqrt(width // self.heads)
        weights = weights.masked_fill(self.get_buffer("mask") == 0, float("-inf")).softmax(-1)
        return self.out((weights @ values).transpose(1, 2).reshape(batch, num_pixels, width))


class CommonBlock(nn.Module):
    """A pre-norm Transformer block."""

    def __init__(self, width: int, heads: int, num_pixels: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MaterialisedAttention(width, heads, num_pixels)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend, then map each token."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))


def _gate(features: Tensor) -> Tensor:
    value, gate = features.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(gate)


def values_first(weight: Tensor, channels: int) -> Tensor:
    """Put outputs grouped by image channel, each group with its own gates, into the order all values, all gates."""
    return weight.unflatten(0, (channels, 2, -1)).transpose(0, 1).flatten(0, 2)


class CommonGatedLayer(nn.Module):
    """A layer of the Gated PixelCNN with masked kernels: 3x3 for the vertical stack, 1x3 for the horizontal one."""

    def __init__(self, num_in: int, width: int, num_conditions: int, channels: int, first: bool) -> None:
        super().__init__()
        self.vertical = MaskedConv2d(num_in, 2 * width, (3, 3), rows_mask())
        row = torch.cat(
            (
                torch.ones(2 * width, num_in, 1, 1),
                values_first(channels_mask(num_in, 2 * width, channels, strict=first), channels),
                torch.zeros(2 * width, num_in, 1, 1),
            ),
            dim=3,
        )
        self.horizontal = MaskedConv2d(num_in, 2 * width, (1, 3), row)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.condition = nn.Conv2d(num_conditions, 2 * width, 1, bias=False)
        self.out = MaskedConv2d(width, width, (1, 1), channels_mask(width, width, channels, strict=False))
        self.residual = not first

    def forward(self, vertical: Tensor, horizontal: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Advance both stacks by one layer."""
        above = self.vertical(vertical)
        along = self.horizontal(horizontal) + self.link(above) + self.condition(attended)
        gated = self.out(_gate(along))
        return _gate(above), horizontal + gated if self.residual else gated


class CommonDecoder(nn.Module):
    """Attention, then masked convolutions, then a softmax per sub-pixel; for a stage without context."""

    def __init__(self, section: SpnSection, shape: StageShape) -> None:
        super().__init__()
        self.shape = shape
        channels, width, num_in = shape.channels, section.pixelcnn_width, 2 * shape.channels
        num_pixels = shape.height * shape.width
        self.entry = nn.Conv2d(num_in, section.width, 1)
        self.row_positions = nn.Parameter(0.02 * torch.randn(1, section.width, shape.height, 1))
        self.column_positions = nn.Parameter(0.02 * torch.randn(1, section.width, 1, shape.width))
        blocks = (CommonBlock(section.width, section.heads, num_pixels) for _ in range(section.transformer_layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(section.width)
        self.layers = nn.ModuleList(
            CommonGatedLayer(width if depth else num_in, width, section.width, channels, first=depth == 0)
            for depth in range(section.pixelcnn_layers)
        )
        outputs = channels * shape.num_levels
        self.hidden = MaskedConv2d(width, width, (1, 1), channels_mask(width, width, channels, strict=False))
        self.logits = MaskedConv2d(width, outputs, (1, 1), channels_mask(width, outputs, channels, strict=False))

    def forward(self, levels: Tensor) -> Tensor:
        """Return the logits [batch, level, channel, height, width] of levels [batch, channel, height, width]."""
        scaled = levels.to(self.row_positions.dtype) * (2 / (self.shape.num_levels - 1)) - 1
        image = torch.stack((scaled, torch.ones_like(scaled)), dim=2).flatten(1, 2)
        shifted = F.pad(image.flatten(2), (1, 0))[:, :, :-1].view_as(image)
        tokens = self.entry(shifted) + self.row_positions + self.column_positions
        tokens = self.norm(self.blocks(tokens.flatten(2).transpose(1, 2)))
        attended = tokens.transpose(1, 2).reshape(len(levels), -1, *levels.shape[2:])
        vertical, horizontal = F.pad(image, (0, 0, 1, 0))[:, :, :-1], image
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, attended)
        logits = self.logits(F.relu(self.hidden(F.relu(horizontal))))
        return logits.unflatten(1, (self.shape.channels, -1)).transpose(1, 2)

    def loss(self, levels: Tensor) -> Tensor:
        """Return the mean nats of a sub-pixel."""
        return F.cross_entropy(self(levels), levels)


def common_step(loss_of: Callable[[Tensor], Tensor], optimiser: torch.optim.Optimizer, levels: Tensor) -> Tensor:
    """Take one step of training."""
    optimiser.zero_grad()
    loss = loss_of(levels)
    loss.backward()
    optimiser.step()
    return loss.detach()
