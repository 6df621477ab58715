"""The walk as CUDA graphs: on a GPU its hundred small kernels per pixel take longer to launch than to run."""

import torch
from torch import Tensor

from spn.generation.walk import Choose, Given, walk_row
from spn.models import Context, Steps
from spn.shapes import Levels


class CapturedWalk:
    """`walk`, captured row by row for one step form, one driver and one batch size.

    Each row is a separate graph, because attention sees more pixels in each. `choose` may use only operations on the
    device.
    """

    @torch.inference_mode()
    def __init__(self, steps: Steps, context: Context, given: Given, choose: Choose) -> None:
        self._steps, self._choose = steps, choose
        self._given = given.clone()
        with torch.cuda.device(given.device):  # which need not be the current one
            self._pool = torch.cuda.graph_pool_handle()
            steps.begin(context)
            rows = range(given.shape[1])
            # Warm up on a separate stream, as capture demands, so that libraries are initialised outside the graphs.
            # Capture on it too: torch's own stream for captures lies on the device that captured first.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for row in rows:
                    self._walk_row(row)
            torch.cuda.current_stream().wait_stream(stream)
            self._rows = [self._capture(row, stream) for row in rows]

    @torch.inference_mode()
    def __call__(self, context: Context, given: Given) -> Levels:
        """Walk slices as `walk` does."""
        with torch.cuda.device(self._given.device):
            self._steps.begin(context)
            self._given.copy_(given)
            rows = []
            for graph, levels in self._rows:
                graph.replay()
                rows.append(levels.clone())
            return torch.stack(rows, dim=1)

    def _capture(self, row: int, stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            levels = self._walk_row(row)
        return graph, levels

    def _walk_row(self, row: int) -> Tensor:
        return walk_row(self._steps, row, self._given[:, row], self._choose)
