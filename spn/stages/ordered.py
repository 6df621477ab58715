"""A stage of cells whose slices are generated in an order other than raster order (NOTE: ours).

All but the causal window is as in `spn/stages/cells.py`. In raster order the offset between two slices says which comes
first; in another order it does not. So the window has a cell for every offset at which some slice comes before some
target, and the cell is empty for a target where that slice comes later.
"""

from dataclasses import replace

import torch
from torch import Tensor

from spn.config import StagePlan
from spn.image import window_offsets
from spn.models import Context
from spn.shapes import Labels, Positions, Slices
from spn.stages.cells import Stage


class OrderedStage(Stage):
    """The targets and contexts of a stage with an order of its own."""

    def __init__(self, plan: StagePlan, shape: tuple[int, int, int], device: torch.device) -> None:
        super().__init__(plan, shape, device)
        size, known, earlier = plan.scale_factor, torch.tensor(plan.known), torch.tensor(_earlier(plan))
        own = torch.zeros_like(known)
        for m, n in plan.targets:
            own[m, n] = plan.own_mask
        self._visible = ((known | own) * earlier).to(device)
        window = torch.tensor(window_offsets(size))
        precedes = [any(_at_offset(earlier, m, n, offset) for m, n in plan.targets) for offset in window.tolist()]
        self._offsets = window[torch.tensor(precedes)].to(device)
        is_any_known_later = any((known * ~earlier[m, n]).any() for m, n in plan.targets)
        self._windows = [(known.to(device), window.to(device))] if is_any_known_later else []
        num_cells = len(self._offsets) + sum(len(offsets) for _, offsets in self._windows)
        self.shape = replace(self.shape, num_cells=num_cells)

    def context(self, slices: Slices, position: Positions, labels: Labels | None = None) -> Context:
        """Gather the context of each image's slice at `position`: slices before it, then what `cells` adds."""
        context = super().context(slices, position, labels)
        causal, present = self._gather_earlier(slices, position)
        cells = torch.cat([causal.long(), context.cells], dim=1)
        return replace(context, cells=cells, present=torch.cat([present, context.present], dim=1))

    def _gather_earlier(self, slices: Slices, position: Positions) -> tuple[Tensor, Tensor]:
        """Gather what `gather_window` does, with bits that may be seen of each target."""
        size, visible = self.plan.scale_factor, self._visible.to(slices.device)
        row, column = (position[:, None] + self._offsets.to(slices.device)).unbind(-1)
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        row, column = row.clamp(0, size - 1), column.clamp(0, size - 1)
        mask = torch.where(inside, visible[position[:, :1], position[:, 1:], row, column], 0)
        image = torch.arange(len(slices), device=slices.device)[:, None]
        return slices[image, row, column] & mask[:, :, None, None, None].to(slices.dtype), mask != 0


def _earlier(plan: StagePlan) -> list[list[list[list[bool]]]]:
    """Tell of every slice (row, column) whether it comes before slice (m, n), by [m][n][row][column].

    Slice (0, 0) comes first also if the stage does not generate it.
    """
    order = [(0, 0), *(each for each in plan.targets if each != (0, 0))]
    rank = {each: number for number, each in enumerate(order)}
    every = range(plan.scale_factor)
    return [[[[rank[row, column] < rank[m, n] for column in every] for row in every] for n in every] for m in every]


def _at_offset(earlier: Tensor, m: int, n: int, offset: list[int]) -> bool:
    row, column, size = m + offset[0], n + offset[1], len(earlier)
    return 0 <= row < size and 0 <= column < size and bool(earlier[m, n, row, column])


def build(plan: StagePlan, shape: tuple[int, int, int], device: torch.device) -> OrderedStage:
    """Build the stage of a plan whose targets are in an order of their own."""
    return OrderedStage(plan, shape, device)
