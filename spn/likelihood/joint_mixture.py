"""One mixture for all channels of a pixel (Salimans et al. 2017, Sec. 2.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spn.likelihood.mixture import DiscretisedMixture, at_least_float32


class JointMixture:
    """The laws of a pixel's channels under one mixture indicator, channel by channel (Salimans et al. 2017, Sec. 2.2).

    A channel's means are shifted linearly by the values of the channels before it, and its mixture weights are the
    posterior over components given those channels. `parameters` [*pixels, P] hold the log-weights, then every
    channel's means, then every channel's log-scales, then the coefficients of the shifts. For M components and C
    channels P = M (1 + 2 C + C (C - 1) / 2): 3 M for grey images, 10 M for RGB.
    """

    def __init__(
        self,
        parameters: Float[Tensor, "*pixels _"],
        channels: int,
        num_levels: int,
        high: Int[Tensor, "*pixels channels"] | None,
        high_levels: int,
        law: type[DiscretisedMixture] = DiscretisedMixture,
    ) -> None:
        # Converted before anything is added, because half precision would shift the means by whole levels.
        exact = parameters.to(at_least_float32(parameters))
        # In memory the pixels come last, so that elementwise functions sweep over them, not over a few components.
        planes = exact.movedim(-1, 0).contiguous().unflatten(0, (num_joint_outputs(channels, 1), -1))
        split = [each.movedim(0, -1) for each in planes.unbind(0)]
        self._weights: Tensor = split[0]
        self._means, self._log_scales = split[1 : 1 + channels], split[1 + channels : 1 + 2 * channels]
        self._coefficients = iter(split[1 + 2 * channels :])
        self._levels = (num_levels, high_levels)
        self._high, self._law = high, law
        self._values: list[Tensor] = []

    def law(self) -> DiscretisedMixture:
        """Return the law of the next channel."""
        channel = len(self._values)
        num_levels, high_levels = self._levels
        # mu_c + sum of tanh(alpha_ck) x_k over the channels k < c; tanh bounds alpha, as in the paper's code.
        mean = self._means[channel]
        for value in self._values:
            mean = mean + torch.tanh(next(self._coefficients)) * value[..., None]
        high = None if self._high is None else self._high[..., channel]
        self._next = self._law(self._weights, mean, self._log_scales[channel], num_levels, high, high_levels)
        return self._next

    def observe(self, values: Float[Tensor, "*pixels"]) -> None:
        """Condition on the `values`, in [-1, 1] on the scale of all bits so far, of the channel whose law came last."""
        # Bayes' rule, up to a constant: log p(i | x_1 .. x_c) = log p(i | x_1 .. x_{c-1}) + log p(x_c | i, ...).
        self._weights = self._weights + self._next.component_log_mass(values)
        self._values.append(self._next.relative(values))


def num_joint_outputs(channels: int, num_mixtures: int) -> int:
    """Count the outputs of a network for the `JointMixture` of a pixel."""
    return num_mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def joint_mixture(
    parameters: Float[Tensor, "*pixels _"],
    values: Float[Tensor, "*pixels channels"],
    num_levels: int,
    high: Int[Tensor, "*pixels channels"] | None = None,
    high_levels: int = 1,
    law: type[DiscretisedMixture] = DiscretisedMixture,
) -> DiscretisedMixture:
    """Return the laws [*pixels, channels] of whole pixels, each channel given the `values` of the channels before."""
    joint = JointMixture(parameters, values.shape[-1], num_levels, high, high_levels, law)
    laws = [joint.law()]
    for value in values.unbind(-1)[:-1]:
        joint.observe(value)
        laws.append(joint.law())
    return laws[0].rebuilt(*_stacked(laws), high)


def _stacked(laws: Sequence[DiscretisedMixture]) -> tuple[Tensor, Tensor, Tensor]:
    def stacked(name: str) -> Tensor:
        """Stack [*pixels, component] to [*pixels, channel, component], with the pixels last in memory."""
        planes = torch.stack([getattr(law, name).movedim(-1, 0) for law in laws])
        return planes.movedim((0, 1), (-2, -1))

    return stacked("log_weights"), stacked("means"), stacked("log_scales")
