"""The walk as CUDA graphs: on a GPU its hundred small kernels a pixel take less time to run than to launch."""

import torch
from torch import Tensor

from spn.generation.walk import Choose, Given, walk_row
from spn.models import Context, Steps
from spn.shapes import Levels


class CapturedWalk:
    """`walk`, captured row by row for one step form, one driver and one size of batch.

    Each row is a graph of its own, because attention sees more pixels from one to the next. `choose` must be made of
    operations on the device alone.
    """

    @torch.inference_mode()
    def __init__(self, steps: Steps, context: Context, given: Given, choose: Choose) -> None:
        self._steps, self._choose = steps, choose
        self._given = given.clone()
        self._pool = torch.cuda.graph_pool_handle()
        steps.begin(context)
        rows = range(given.shape[1])
        # Once outside the graphs and on a stream of its own, as capture demands: libraries set themselves up.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for row in rows:
                self._walk_row(row)
        torch.cuda.current_stream().wait_stream(stream)
        self._rows = [self._capture(row) for row in rows]

    @torch.inference_mode()
    def __call__(self, context: Context, given: Given) -> Levels:
        """Walk slices as `walk` does."""
        self._steps.begin(context)
        self._given.copy_(given)
        rows = []
        for graph, levels in self._rows:
            graph.replay()
            rows.append(levels.clone())
        return torch.stack(rows, dim=1)

    def _capture(self, row: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            levels = self._walk_row(row)
        return graph, levels

    def _walk_row(self, row: int) -> Tensor:
        return walk_row(self._steps, row, self._given[:, row], self._choose)
