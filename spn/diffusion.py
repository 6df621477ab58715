"""Multinomial diffusion of levels (Hoogeboom et al. 2021; ImageBART, Esser et al. 2021, Sec. 3.2).

q(x_t | x_{t-1}) keeps a level with probability 1 - beta_t, and else replaces it by a uniform one of K. All sub-pixels
are independent, and all is in closed form: the marginals q(x_t | x_0), and the posterior q(x_{t-1} | x_t, x_0).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def noised(
    levels: Int[Tensor, "*batch"],
    kept: float,
    num_levels: int,
    decisions: Float[Tensor, "*batch"],
    draws: Float[Tensor, "*batch"],
) -> Int[Tensor, "*batch"]:
    """Keep each level with probability `kept`, or else replace it by a uniform one; uniforms in [0, 1) decide both."""
    return torch.where(decisions < kept, levels, (draws * num_levels).to(levels.dtype))


def transition(levels: Int[Tensor, "*batch"], kept: float, num_levels: int) -> Float[Tensor, "*batch num_levels"]:
    """Return the probability that a level is kept or replaced, between `levels` and each of all levels, in float64.

    The matrix is symmetric: it is q(k | level), and also q(level | k) as a function of k.
    """
    return F.one_hot(levels.long(), num_levels).double() * kept + (1 - kept) / num_levels


def posterior(
    clean: Int[Tensor, "*batch"], later: Int[Tensor, "*batch"], kept: float, survival: float, num_levels: int
) -> Float[Tensor, "*batch num_levels"]:
    """Return q(x_{t-1} = k | x_t, x_0) for each level k, in float64, given `clean` x_0 and `later` x_t.

    `kept` is the probability that a level of x_0 survives up to t - 1, `survival` that it then survives scale t.
    """
    product = transition(clean, kept, num_levels) * transition(later, survival, num_levels)
    return product / product.sum(-1, keepdim=True)
