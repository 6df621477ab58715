"""The slice embedder (Menick & Kalchbrenner 2018, Fig. 4a): it turns the context of a slice into one tensor."""

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor, nn

from spn.config import FamilySection
from spn.layers.intensity import build_intensity
from spn.layers.residual import ConvStack
from spn.shapes import Features

DILATIONS = 7
"""Number of dilations before they start again at 1: 1, 2, ... 64, which together reach 127 pixels."""


def embedder_dilations(section: FamilySection) -> tuple[int, ...]:
    """Return the dilations of the embedder's 3x3 convolutions: one, and two in each residual block."""
    return tuple(section.embedder_dilation ** (place % DILATIONS) for place in range(1 + 2 * section.embedder_layers))


def context_reach(section: FamilySection) -> int:
    """Return the largest distance in pixels at which context enters the features of a pixel."""
    return sum(embedder_dilations(section))


class SliceEmbedder(nn.Module):
    """Concatenates the cells of context along depth and convolves them at constant size.

    NOTE: these are ours: `Intensity` distinguishes an absent cell from intensity 0; learned embeddings of the
    meta-position and, with `num_classes`, of the image's class are appended as planes; and `embedder_dilation`, because
    the paper does not say how far the convolutions reach (`context_reach`).
    """

    def __init__(
        self,
        section: FamilySection,
        width: int,
        cells: tuple[int, int],
        context_levels: int,
        num_positions: int,
        num_classes: int = 0,
    ) -> None:
        """Build for `cells` (number of cells, channels in each) with `context_levels` levels."""
        super().__init__()
        num_cells, channels = cells
        self.intensity = build_intensity(section.intensity, context_levels, section.intensity_units)
        # The embedding of the meta-position (m, n) of the target slice, numbered m * S + n.
        self.position = nn.Embedding(num_positions, section.meta_position_units)
        num_planes = num_cells * channels * self.intensity.units + section.meta_position_units
        if num_classes:
            num_planes += section.class_units
        self.convs = ConvStack(num_planes, width, embedder_dilations(section))
        self.label = nn.Embedding(num_classes, section.class_units) if num_classes else None

    def forward(
        self,
        cells: Int[Tensor, "batch cell height width channel"],
        present: Bool[Tensor, "batch cell"],
        position: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None,
    ) -> Features:
        """Embed the context as [batch, height, width, feature]."""
        is_there = present[:, :, None, None, None].expand(cells.shape)
        planes = [rearrange(self.intensity(cells, is_there), "b k h w c e -> b h w (k c e)")]
        of_image = [self.position(position)]
        if self.label is not None:
            assert label is not None, "labels for a class-conditional stage"
            of_image.append(self.label(label))
        planes += [each[:, None, None].expand(-1, *planes[0].shape[1:3], -1) for each in of_image]
        return self.convs(torch.cat(planes, dim=-1))
