"""Names for the shapes of tensors that several modules share; jaxtyping checks them in every fast test."""

from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

Slices = Shaped[Tensor, "batch S S height width channel"]
"""Images of full levels, cut into their S x S slices."""
ByteSlices = UInt8[Tensor, "batch S S height width channel"]

Positions = Int[Tensor, "batch 2"]
"""The meta-position (m, n) of each image's target slice."""

Labels = Int[Tensor, "batch *word"]
"""The class of each image, or the tokens of its caption."""
OneHot = Float[Tensor, "batch classes"]
"""Classes as one-hot vectors."""

Levels = Int[Tensor, "batch height width channel"]
"""One slice of each image: a target, or its more significant bits."""
Values = Float[Tensor, "batch height width channel"]
"""Levels scaled to [-1, 1]."""

Features = Float[Tensor, "batch height width _"]
"""Features of all pixels of a slice."""
Row = Float[Tensor, "batch width _"]
"""Features of a row of pixels."""
Pixel = Float[Tensor, "batch _"]
"""Features of one pixel."""
AnyFeatures = Float[Tensor, "*batch _"]
"""Features of pixels in any layout."""

Codes = Int[Tensor, "batch row column"]
"""The grid of codes of each image, of lower resolution than the image."""
Vectors = Float[Tensor, "batch row column _"]
"""Features in such a grid."""
PerImage = Float[Tensor, " batch"]
"""One number for each image."""

Coordinates = Float[Tensor, "height width 2"]
"""Row and column of every pixel of a slice."""
AnyCoordinates = Float[Tensor, "*pixels 2"]
"""Row and column of pixels in any layout."""
