"""A stage's loss in one process or in several: the same batch, the same loss, the same gradient.

Every process takes its share of each batch (`spn.distributed`), and DistributedDataParallel averages the gradients.
Batches are functions of the step, so nothing else is exchanged. Each process draws its own dropout.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spn.distributed import gradient_group, num_processes
from spn.stages import Stage
from spn.training.step import Nats


class _StageNats(nn.Module):
    """`Stage.loss` as a module, because DistributedDataParallel acts after a module's forward pass."""

    def __init__(self, nats: Callable[..., Tensor], model: nn.Module) -> None:
        super().__init__()
        self._nats, self.model = nats, model

    def forward(self, slices: Tensor, position: Tensor, labels: Tensor | None) -> Tensor:
        return self._nats(self.model, slices, position, labels)


def parallel_nats(stage: Stage, model: nn.Module, device: torch.device, compiled: bool) -> Nats:
    """Return `Stage.loss` of a model, whose gradients are averaged over the processes; see `Trainer` on `compiled`."""
    nats: Callable[..., Tensor] = stage.loss
    if compiled:
        nats = torch.compile(
            stage.loss,
            options={
                # Makes dropout the same as without compilation.
                "fallback_random": True,
                # On a CPU features already lie as convolutions read them; laid out anew, they take a quarter of a step
                # of PixelCNN++.
                "layout_optimization": device.type != "cpu",
                # Tanh as 2 sigmoid(2 x) - 1, as in `spn.layers.elementwise`: gates take two thirds of the time.
                "cpp.use_decompose_tanh": True,
            },
        )
    if num_processes() == 1:
        return partial(nats, model)
    return DistributedDataParallel(
        _StageNats(nats, model),
        process_group=gradient_group(device),
        gradient_as_bucket_view=True,
        find_unused_parameters=stage.has_idle_weights,
    )
