"""The views of samples of a mixture of orders, and how they are undone."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from spn.generation.uniforms import keyed_uniforms
from spn.image import apply_view

Images = UInt8[Tensor, "image height width channel"]


def drawn_views(views: Sequence[str], num_images: int, seed: int) -> list[str]:
    """Draw a view for each of images 0 .. num_images - 1, a function of (seed, image); all views are as probable.

    Without views, that of the image as it is.
    """
    if not views:
        return ["identity"] * num_images
    # No stage has a name with spaces.
    uniforms = keyed_uniforms(seed, "view of the chain", (0, 0), range(num_images), (1, 1, 1)).flatten()
    return [views[int(each * len(views))] for each in uniforms.tolist()]


def apply_views(images: Images, views: Sequence[str]) -> Images:
    """Apply to each image its view; applied twice, images are as they were."""
    if set(views) <= {"identity"}:
        return images
    return torch.stack([apply_view(image, view) for image, view in zip(images, views, strict=True)])


def undo_views(samples: Images, views: Sequence[str], seed: int) -> Images:
    """Return the finished samples of a mixture of orders, given what its networks sampled; `views` are the chain's."""
    return apply_views(samples, drawn_views(views, len(samples), seed))
