"""Linear maps laid out for step forms, which map one pixel of each slice in the batch at a time."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spn.shapes import Pixel


class PixelLinear:
    """A linear map with nn.Linear's weight and bias; without a weight it returns the bias.

    The weight is kept transposed, which makes products of a few rows up to twice as fast.
    """

    def __init__(
        self, weight: Float[Tensor, "num_out num_in"] | None, bias: Float[Tensor, " num_out"] | None = None
    ) -> None:
        self._weight = None if weight is None else weight.detach().T.contiguous()
        self._bias = None if bias is None else bias.detach()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weight."""
        assert self._weight is not None
        return self._weight.dtype

    def __call__(self, features: Pixel) -> Pixel:
        """Map pixels."""
        if self._weight is None:
            assert self._bias is not None, "a map without a weight gives its bias"
            return self._bias.expand(len(features), -1)
        return features @ self._weight if self._bias is None else self._bias.addmm(features, self._weight)

    def add_to(self, base: Pixel, features: Pixel) -> None:
        """Add the map of `features`, without the bias, to `base` in place."""
        if self._weight is not None:
            base.addmm_(features, self._weight)


class EmbeddedPixel:
    """The embedding [batch, channel * units] of a pixel that is filled in channel by channel.

    `table` [level, units] holds the embedding of every level: levels are embedded one by one (`Intensity`).
    """

    def __init__(self, table: Float[Tensor, "level units"], batch: int, channels: int) -> None:
        self._table = table.detach()
        self.values = self._table.new_zeros(batch, channels * table.shape[1])
        self._channels = self.values.chunk(channels, dim=1)

    def observe(self, channel: int, levels: Int[Tensor, " batch"]) -> None:
        """Fill in one channel."""
        self._channels[channel].copy_(self._table[levels])

    def is_last(self, channel: int) -> bool:
        """Tell whether this channel completes the pixel."""
        return channel + 1 == len(self._channels)
