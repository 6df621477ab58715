"""The planes that the slice embedder convolves."""

import torch
from torch import nn

from spn.config import SpnSection
from spn.layers import SliceEmbedder

SECTION = SpnSection(
    family="spn", width=4, heads=1, transformer_layers=0, pixelcnn_width=4, pixelcnn_layers=1, relative_cells=True
)


def test_relative_cells_are_measured_from_the_middle_of_the_target_s_group() -> None:
    # 16 levels, of which two bits are known: groups of 4, whose middles are -3/4, -1/4, 1/4 and 3/4.
    embedder = SliceEmbedder(SECTION, 4, (2, 1), context_levels=16, num_positions=4, high_levels=4)
    embedder.convs = nn.Identity()  # type: ignore[assignment]
    cells = torch.tensor([6, 15]).view(1, 2, 1, 1, 1)
    present, position = torch.tensor([[True, False]]), torch.tensor([0])
    for high, expected in ((1, (-0.2 + 0.25) * 4), (3, (-0.2 - 0.75) * 4), (0, (-0.2 + 0.75) * 4)):
        planes = embedder(cells, present, position, None, torch.tensor([high]).view(1, 1, 1, 1))
        relative = planes[0, 0, 0, 4:6]  # after the level and the presence of each cell
        torch.testing.assert_close(relative, torch.tensor([expected, 0.0]))


def test_cells_beyond_an_edge_are_all_alike() -> None:
    embedder = SliceEmbedder(SECTION, 4, (1, 1), context_levels=256, num_positions=4, high_levels=8)
    embedder.convs = nn.Identity()  # type: ignore[assignment]
    present, position, high = torch.tensor([[True]]), torch.tensor([0]), torch.zeros(1, 1, 1, 1, dtype=torch.long)
    planes = [embedder(torch.full((1, 1, 1, 1, 1), level), present, position, None, high) for level in (200, 255)]
    assert [plane[0, 0, 0, 2].item() for plane in planes] == [4.0, 4.0]
