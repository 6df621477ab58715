"""The slice embedder (Menick & Kalchbrenner 2018, Fig. 4a): it turns the context of a slice into one tensor."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor, nn

from spn.config import FamilySection, SliceEmbedderSection
from spn.layers.intensity import build_intensity, scale_levels
from spn.layers.residual import ConvStack
from spn.shapes import Features, Levels

DILATIONS = 7
"""Number of dilations before they start again at 1: 1, 2, ... 64, which together reach 127 pixels."""

FAR = 4.0
"""Limit of relative cells, in halves of a group: what is further away lies beyond an edge."""


def embedder_dilations(section: SliceEmbedderSection) -> tuple[int, ...]:
    """Return the dilations of the embedder's 3x3 convolutions: one, and two in each residual block."""
    return tuple(section.embedder_dilation ** (place % DILATIONS) for place in range(1 + 2 * section.embedder_layers))


def context_reach(section: FamilySection) -> float:
    """Return the largest distance in pixels at which context enters the features of a pixel; infinite by attention."""
    return float(sum(embedder_dilations(section))) if isinstance(section, SliceEmbedderSection) else math.inf


class SliceEmbedder(nn.Module):
    """Concatenates the cells of context along depth and convolves them at constant size.

    NOTE: these are ours: `Intensity` distinguishes an absent cell from intensity 0; learned embeddings of the
    meta-position and, with `num_classes`, of the image's class are appended as planes; `embedder_dilation`, because
    the paper does not say how far the convolutions reach (`context_reach`); and `relative_cells`, the levels once more,
    relative to the group of levels that the target's high bits select. The target's low bits are about a neighbour's
    level in these units, and a network need not learn them as small differences of large numbers.
    """

    def __init__(
        self,
        section: SliceEmbedderSection,
        width: int,
        cells: tuple[int, int],
        context_levels: int,
        num_positions: int,
        num_classes: int = 0,
        high_levels: int = 1,
    ) -> None:
        """Build for `cells` (number of cells, channels in each) with `context_levels` levels.

        `high_levels` is the number of levels of the target's more significant bits if they are known, otherwise 1.
        """
        super().__init__()
        num_cells, channels = cells
        self.context_levels, self.high_levels = context_levels, high_levels
        self.has_relative_cells = section.relative_cells and high_levels > 1
        self.intensity = build_intensity(section.intensity, context_levels, section.intensity_units)
        # The embedding of the meta-position (m, n) of the target slice, numbered m * S + n.
        self.position = nn.Embedding(num_positions, section.meta_position_units)
        num_planes = num_cells * channels * self.intensity.units + section.meta_position_units
        if num_classes:
            num_planes += section.class_units
        if self.has_relative_cells:
            num_planes += num_cells * channels
        self.convs = ConvStack(num_planes, width, embedder_dilations(section))
        self.label = nn.Embedding(num_classes, section.class_units) if num_classes else None

    def forward(
        self,
        cells: Int[Tensor, "batch cell height width channel"],
        present: Bool[Tensor, "batch cell"],
        position: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None,
        high: Levels | None = None,
    ) -> Features:
        """Embed the context as [batch, height, width, feature]; `high` holds the target's more significant bits."""
        is_there = present[:, :, None, None, None].expand(cells.shape)
        planes = [rearrange(self.intensity(cells, is_there), "b k h w c e -> b h w (k c e)")]
        if self.has_relative_cells:
            assert high is not None, "a stage whose high bits are known receives them"
            relative = self._relative(cells, high, planes[0].dtype) * is_there
            planes.append(rearrange(relative, "b k h w c -> b h w (k c)"))
        of_image = [self.position(position)]
        if self.label is not None:
            assert label is not None, "labels for a class-conditional stage"
            of_image.append(self.label(label))
        planes += [each[:, None, None].expand(-1, *planes[0].shape[1:3], -1) for each in of_image]
        return self.convs(torch.cat(planes, dim=-1))

    def _relative(
        self, cells: Int[Tensor, "batch cell height width channel"], high: Levels, dtype: torch.dtype
    ) -> Tensor:
        """Return (level - middle of the target's group) / half a group, between -`FAR` and `FAR`."""
        middle = (high[:, None].to(dtype) + 0.5) * (2 / self.high_levels) - 1
        away = (scale_levels(cells, self.context_levels, dtype) - middle) * self.high_levels
        return away.clamp(-FAR, FAR)
