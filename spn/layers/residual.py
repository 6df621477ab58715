"""Residual convolutions at constant size, not causal: for what is wholly known before a slice begins."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)  # so that a deep stack begins as the identity

    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(F.gelu(self.first(F.gelu(features))))


class ConvStack(nn.Module):
    """A 3x3 convolution and residual blocks of two more each."""

    def __init__(self, num_in: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(num_in, width, 3, padding=1)
        self.blocks = nn.Sequential(*(_ResidualBlock(width) for _ in range(num_blocks)))

    def forward(
        self, features: Float[Tensor, "batch height width _"]
    ) -> Float[Tensor, "batch height width _"]:
        """Convolve at constant size, with zeros outside the slice."""
        return self.blocks(self.entry(features.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
