"""Stops training at a loss or gradient that is not finite, naming the step and the parameter.

Otherwise training would go on unnoticed: clipping turns a gradient of infinite norm into zeros, and the weights stay
unchanged.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

Pending: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""A step's loss, the norm of its gradient, and the index of the parameter to blame if that norm is not finite."""


def gradient_norms(parameters: Iterable[nn.Parameter]) -> Float[Tensor, " gradients"]:
    """Return the norm of each gradient; parameters without one do not count."""
    return torch.stack(torch._foreach_norm([each.grad for each in parameters if each.grad is not None]))


def worst_gradient(norms: Float[Tensor, " gradients"]) -> Tensor:
    """Return the index of the first norm that is not finite, or else of the largest.

    The result stays on the device, so that training does not wait for it.
    """
    return norms.nan_to_num(torch.inf, torch.inf).argmax().double()


def check_finite(stage: str, model: nn.Module, losses: Tensor, pending: Sequence[Pending], step: int) -> None:
    """Raise FloatingPointError naming the first of the `pending` steps whose loss or gradient is not finite.

    `losses` are over whole batches; `step` is the number of the last step.
    """
    norms, culprits = (torch.stack([each[part] for each in pending]).cpu() for part in (1, 2))
    losses = losses.cpu()
    bad = (~(losses.isfinite() & norms.isfinite())).nonzero().flatten().tolist()
    if not bad:
        return
    first = bad[0]
    where = f"stage {stage}, step {step - len(pending) + first + 1}"
    if not losses[first].isfinite():
        raise FloatingPointError(f"{where}: expected a finite loss, got {losses[first]}")
    names = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    raise FloatingPointError(
        f"{where}: expected a finite gradient, got a norm of {norms[first]} for {names[int(culprits[first])]}"
    )
