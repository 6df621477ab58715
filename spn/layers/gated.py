"""The layer of the Gated PixelCNN (van den Oord et al. 2016, Fig. 2)."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from spn.layers.causal import ChannelCausalLinear, HorizontalConv, VerticalConv

Features = Float[Tensor, "batch height width _"]


class GatedLayer(nn.Module):
    """One layer of the Gated PixelCNN (van den Oord et al. 2016, Fig. 2): tanh * sigmoid gates on both stacks.

    The vertical stack sees the context; the horizontal one sees the context and the Transformer's output as well. (The
    vertical one must not: its 3-wide kernel would carry what lies left of the next pixel to this one.)
    """

    def __init__(
        self, num_in: int, width: int, num_conditions: tuple[int, int], channels: int, first: bool, dropout: float
    ) -> None:
        super().__init__()
        self.channels = channels
        self.vertical = VerticalConv(num_in, 2 * width)
        self.horizontal = HorizontalConv(num_in, 2 * width, channels, strict=first)
        self.link = nn.Linear(2 * width, 2 * width)
        to_vertical, to_horizontal = num_conditions
        self.vertical_condition = nn.Linear(to_vertical, 2 * width, bias=False) if to_vertical else None
        self.horizontal_condition = nn.Linear(to_horizontal, 2 * width, bias=False)
        self.out = ChannelCausalLinear(width, width, channels, strict=False)
        self.dropout = nn.Dropout(dropout)
        self.residual = not first

    def forward(
        self, vertical: Features, horizontal: Features, conditions: tuple[Features | None, Features]
    ) -> tuple[Features, Features]:
        """Advance both stacks by one layer; `conditions` are those of the vertical and of the horizontal stack."""
        above = self.vertical(vertical)
        if self.vertical_condition:
            above = above + self.vertical_condition(conditions[0])
        along = self.horizontal(horizontal) + self.link(above) + self.horizontal_condition(conditions[1])
        gated = self.dropout(self.out(gate(along, self.channels)))
        return gate(above, 1), horizontal + gated if self.residual else gated


def gate(features: Features, num_groups: int) -> Features:
    """Gate each group of features by its own other half, so that no channel gates another."""
    grouped = rearrange(features, "... (group half f) -> half ... group f", group=num_groups, half=2)
    return rearrange(grouped[0].tanh() * grouped[1].sigmoid(), "... group f -> ... (group f)")
