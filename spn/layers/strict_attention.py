"""Attention over all pixels strictly before each (Chen et al. 2018)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spn.layers.attention import attention
from spn.layers.gated_resnet import GatedResnet
from spn.layers.weight_norm import normalised
from spn.shapes import AnyCoordinates, AnyFeatures, Coordinates, Features, Pixel


def coordinates(height: int, width: int) -> Float[Tensor, "height width 2"]:
    """Return the row and the column of each pixel, from -1/2 to 1/2."""
    rows, columns = torch.arange(height) / height - 0.5, torch.arange(width) / width - 0.5
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


class StrictAttention(nn.Module):
    """Single-head attention of every pixel to the pixels before it.

    Keys and values are made from the image, the features and the coordinates; queries from the features and the
    coordinates. NOTE: each query also sees one key and one value of zeros; the first pixel sees nothing else.
    """

    def __init__(self, num_image: int, width: int, key_width: int, value_width: int, dropout: float) -> None:
        super().__init__()
        self.widths = key_width, value_width
        content = num_image + width + 2
        self.content = GatedResnet(content, (1, 1), 0, 0, dropout)
        self.keys_values = normalised(nn.Linear(content, key_width + value_width))
        self.question = GatedResnet(width + 2, (1, 1), 0, 0, dropout)
        self.queries = normalised(nn.Linear(width + 2, key_width))

    def forward(
        self,
        image: Features,
        features: Features,
        coordinates: Coordinates,
    ) -> Float[Tensor, "batch height width value_width"]:
        """Return, for each pixel, the values of the pixels before it, averaged by attention."""
        keys, values = (_nothing_first(part.flatten(1, 2)) for part in self.remember(image, features, coordinates))
        queries = self.ask(features, coordinates).flatten(1, 2)
        # Single-head attention; keys and values are shifted by one pixel, so that a query never sees its own.
        mixed = attention(queries[:, None], keys[:, None], values[:, None], is_causal=True)
        return mixed[:, 0].unflatten(1, features.shape[1:3])

    def remember(
        self, image: AnyFeatures, features: AnyFeatures, coordinates: AnyCoordinates
    ) -> tuple[AnyFeatures, AnyFeatures]:
        """Compute the keys and the values of pixels."""
        content = torch.cat((image, features, coordinates.expand(*features.shape[:-1], 2)), dim=-1)
        keys, values = self.keys_values(self.content(content, [], None)).split(self.widths, dim=-1)
        return keys, values

    def ask(self, features: AnyFeatures, coordinates: AnyCoordinates) -> AnyFeatures:
        """Compute the queries of pixels."""
        question = torch.cat((features, coordinates.expand(*features.shape[:-1], 2)), dim=-1)
        return self.queries(self.question(question, [], None))


def _nothing_first(tokens: Float[Tensor, "batch token _"]) -> Float[Tensor, "batch token _"]:
    return F.pad(tokens, (0, 0, 1, 0))[:, :-1]


class StrictAttentionSteps:
    """The step form, with a key-value cache: `step` for each pixel, and `remember` once the pixel is known."""

    def __init__(self, attention: StrictAttention, coordinates: Coordinates, batch: int) -> None:
        self._attention, self._coordinates = attention, coordinates.flatten(0, 1)
        num_pixels = len(self._coordinates)
        self._keys, self._values = (
            coordinates.new_zeros(batch, 1, num_pixels + 1, width) for width in attention.widths
        )

    def step(self, pixel: int, features: Pixel) -> Float[Tensor, "batch value_width"]:
        """Return the values of the pixels before number `pixel`, averaged by attention."""
        queries = self._attention.ask(features, self._coordinates[pixel])[:, None, None]
        seen = slice(0, pixel + 1)
        return F.scaled_dot_product_attention(queries, self._keys[:, :, seen], self._values[:, :, seen])[:, 0, 0]

    def remember(self, pixel: int, image: Pixel, features: Pixel) -> None:
        """Append the key and the value of number `pixel` to the cache."""
        keys, values = self._attention.remember(image, features, self._coordinates[pixel])
        self._keys[:, 0, pixel + 1] = keys
        self._values[:, 0, pixel + 1] = values
