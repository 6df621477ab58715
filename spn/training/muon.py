"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

NOTE: ours is the choice of matrices: weights of linear maps and of convolutions, as matrices of outputs by inputs.
AdamW updates all other parameters.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

from spn.layers import PixelHead

LEAST_SIDE = 16
"""Fewest rows and columns of a matrix that Muon updates: smaller ones have few singular values to equalise."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, as published: five steps bring singular values in (0, 1] near 1."""
STEPS = 5
LEAST_NORM = 1e-7
"""Norm below which a matrix is not made larger, as published: what has all but vanished is no direction."""


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW without weight decay for `others`, whose learning rate is a share of the matrices'.

    torch.optim.Muon accepts two-dimensional parameters only, and computes in bfloat16, which takes four times as long
    as float32 on a CPU without matrix units.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        learning_rate: float,
        relative_rate: float,
        momentum: float,
        betas: tuple[float, float],
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": matrices, "momentum": momentum},
            {
                "params": others,
                "betas": betas,
                "lr": learning_rate * relative_rate,
                "relative_rate": relative_rate,
                "fused": True,  # by which torch sends the steps of a loaded state to the device of the parameters
            },
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if "momentum" in group:
                self._step_matrices(parameters, group["lr"], group["momentum"])
            else:
                self._step_others(parameters, group["lr"], group["betas"])

    def _step_matrices(self, parameters: list[nn.Parameter], rate: float, momentum: float) -> None:
        # Matrices of one shape are made orthogonal at once, which halves the time for the many small ones of a network.
        of_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            of_shape.setdefault(parameter.flatten(1).shape, []).append(parameter)
        for (rows, columns), same in of_shape.items():
            updates = orthogonal(torch.stack([self._direction(each, momentum).flatten(1) for each in same]))
            # The rows of an orthogonal matrix with more rows than columns are shorter than 1.
            scale = max(1.0, rows / columns) ** 0.5
            for parameter, update in zip(same, updates, strict=True):
                parameter.add_(update.view_as(parameter), alpha=-rate * scale)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Return the gradient with Nesterov momentum."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(momentum).add_(gradient)
        return gradient + momentum * state["momentum"]

    def _step_others(self, parameters: list[nn.Parameter], rate: float, betas: tuple[float, float]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                step = torch.zeros((), device=parameter.device)
                averages = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": step, **averages}
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            list(parameters),
            [cast(Tensor, parameter.grad) for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def orthogonal(matrix: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    """Return about U V^T of the singular value decomposition U S V^T, by Newton-Schulz iteration.

    A matrix of a norm below `LEAST_NORM` remains small; one of zeros remains that.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if is_tall else matrix
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=LEAST_NORM)
    for _ in range(STEPS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.mT if is_tall else wide


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """List the weights of the model's linear maps and convolutions that have at least `LEAST_SIDE` rows and columns.

    Under weight normalisation these are the directions. Embeddings are not included, and neither is the last layer:
    made orthogonal, the updates of all parameters of a law would be equally large.
    """
    maps = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    heads = [module for module in model.modules() if isinstance(module, PixelHead)]
    last = {id(parameter) for head in heads for parameter in head.output.parameters()}
    found = {}
    for module in model.modules():
        if isinstance(module, maps):
            for name, parameter in module.named_parameters():
                if (
                    id(parameter) not in last
                    and "bias" not in name
                    and min(parameter.shape[0], parameter[0].numel()) >= LEAST_SIDE
                ):
                    found[id(parameter)] = parameter
    return list(found.values())
