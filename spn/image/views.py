"""Views of an image: bijections of its pixels, each its own inverse.

A network's raster order over a view is another order over the image: of `flip_horizontal` from right to left, of
`rotate` (by 180 degrees) from the last pixel to the first, of `transpose` column by column.
"""

from jaxtyping import Shaped
from torch import Tensor

Pixels = Shaped[Tensor, "*batch height width channel"]


def apply_view(images: Pixels, view: str) -> Shaped[Tensor, "*batch height_ width_ channel"]:
    """Return images as a view shows them; applied twice, it returns them as they were."""
    match view:
        case "identity":
            return images
        case "flip_horizontal":
            return images.flip(-2)
        case "flip_vertical":
            return images.flip(-3)
        case "rotate":
            return images.flip(-3, -2)
        case "transpose":
            return images.transpose(-3, -2)
    raise AssertionError(f"{view}: no such view")
