"""Figures of a first stage over a whole split: PSNR, SSIM, and use of the codebook."""

import math

import torch
from jaxtyping import Float64, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from spn.first_stages.quantiser import code_counts
from spn.shapes import Codes

Images = Shaped[Tensor, "batch height width channel"]
"""Levels of any type of number."""

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation of SSIM's Gaussian window, in pixels."""
K1, K2 = 0.01, 0.03
"""SSIM's constants, in units of the largest level."""


class SplitFigures:
    """Sums over the images of a split, in float64, whatever its batches."""

    def __init__(self, num_levels: int, num_codes: int) -> None:
        self._top = num_levels - 1
        self._num_images = self._num_levels = 0
        self._squares = self._ssim = 0.0
        self._counts = torch.zeros(num_codes, dtype=torch.long)

    def add(self, levels: Images, reconstruction: Images, codes: Codes) -> None:
        """Add a batch of images, their reconstructions and their codes."""
        self._num_images += len(levels)
        self._num_levels += levels.numel()
        self._squares += (levels.double() - reconstruction.double()).square().sum().item()
        self._ssim += ssim(levels, reconstruction, self._top).sum().item()
        self._counts += code_counts(codes, len(self._counts)).cpu()

    def metrics(self) -> dict[str, float | None]:
        """Return the figures of all images so far.

        `psnr` is that of the mean squared error over all images, in dB: no image that is reproduced exactly makes it
        infinite. If all are, it is None, because JSON has no infinity. `codes_used` is the share of codes that occur;
        `perplexity` the number of equally frequent codes that would have the same entropy.
        """
        error = self._squares / self._num_levels
        return {
            "mean_squared_error": error,
            "psnr": 10 * math.log10(self._top**2 / error) if error else None,
            "ssim": self._ssim / self._num_images,
            "codes_used": (self._counts > 0).double().mean().item(),
            "perplexity": perplexity(self._counts),
        }


def perplexity(counts: Int[Tensor, " code"]) -> float:
    """Return the exponential of the entropy of the codes' frequencies: 1 for a single code, at most their number."""
    frequencies = counts.double() / counts.sum()
    return torch.special.entr(frequencies).sum().exp().item()


def ssim(levels: Images, others: Images, top: int) -> Float64[Tensor, " batch"]:
    """Return the structural similarity (Wang et al. 2004) of images with levels 0 .. `top`.

    It is averaged over channels and over all windows that lie inside the image. NOTE: the window is smaller, of the
    largest odd side that fits, in images of fewer than 11 pixels.
    """
    side = min(WINDOW, *((size - 1) // 2 * 2 + 1 for size in levels.shape[1:3]))
    x, y = (images.double().permute(0, 3, 1, 2).flatten(0, 1)[:, None] for images in (levels, others))
    means = _smooth(torch.cat((x, y, x * x, y * y, x * y), dim=1), side)
    mean_x, mean_y, xx, yy, xy = means.unbind(1)
    covariance, c1, c2 = xy - mean_x * mean_y, (K1 * top) ** 2, (K2 * top) ** 2
    variances = xx - mean_x**2 + yy - mean_y**2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similar /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return similar.mean((1, 2)).unflatten(0, (len(levels), -1)).mean(1)


def _smooth(planes: Float64[Tensor, "batch plane _ _"], side: int) -> Float64[Tensor, "batch plane _ _"]:
    """Average over Gaussian windows that lie inside the planes."""
    offsets = torch.arange(side, dtype=torch.double, device=planes.device) - side // 2
    weights = torch.softmax(-(offsets**2) / (2 * SIGMA**2), 0)
    num_planes = planes.shape[1]
    for shape in ((side, 1), (1, side)):
        planes = F.conv2d(planes, weights.view(shape).expand(num_planes, 1, *shape), groups=num_planes)
    return planes
