"""The figures of a first stage, against references by hand, and the spacing of noise levels."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor

from spn.config.first_stage import VqSection
from spn.first_stages import SplitFigures, VqAutoencoder, distortion, equal_steps, figures, ssim


def draw(*shape: int, levels: int = 256, seed: int = 1) -> Tensor:
    return torch.randint(levels, shape, generator=torch.Generator().manual_seed(seed))


# PSNR and SSIM.


def test_psnr_is_that_of_the_error_over_the_split() -> None:
    images = torch.zeros(3, 2, 2, 1, dtype=torch.uint8)
    others = images.clone()
    others[0], others[1, 0, 0] = 10, 20  # squares 4 * 100 and 400; the third image is reproduced exactly
    totals = SplitFigures(256, 4)
    totals.add(images, others, torch.zeros(3, 1, 1, dtype=torch.long))
    metrics = totals.metrics()
    assert metrics["mean_squared_error"] == 800 / 12
    assert metrics["psnr"] == pytest.approx(20 * math.log10(255) - 10 * math.log10(800 / 12), abs=1e-12)


def test_exact_reconstructions_have_no_psnr() -> None:
    images = draw(2, 12, 12, 3)
    totals = SplitFigures(256, 4)
    totals.add(images, images, torch.zeros(2, 3, 3, dtype=torch.long))
    metrics = totals.metrics()
    assert metrics["psnr"] is None
    assert metrics["mean_squared_error"] == 0
    assert metrics["ssim"] == pytest.approx(1, abs=1e-12)


def ssim_by_hand(one: np.ndarray, other: np.ndarray, top: int, side: int) -> float:
    """Compute SSIM window by window, with the formulas of Wang et al. (2004, Section III-B)."""
    centred = np.arange(side) - (side - 1) / 2
    weights = np.exp(-(centred[:, None] ** 2 + centred[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for channel in range(one.shape[-1]):
        for row in range(one.shape[0] - side + 1):
            for column in range(one.shape[1] - side + 1):
                x, y = (each[row : row + side, column : column + side, channel].astype(float) for each in (one, other))
                mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
                var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
                covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
                c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
                luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
                found.append(luminance * (2 * covariance + c2) / (var_x + var_y + c2))
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("shape", "levels", "side"), [((14, 13, 3), 256, 11), ((11, 11, 1), 2, 11), ((8, 12, 1), 32, 7), ((2, 2, 1), 4, 1)]
)
def test_ssim_is_that_by_hand(shape: tuple[int, int, int], levels: int, side: int) -> None:
    one = draw(2, *shape, levels=levels)
    other = (one + draw(2, *shape, levels=max(2, levels // 8), seed=3)).clamp(max=levels - 1)
    expected = [ssim_by_hand(one[image].numpy(), other[image].numpy(), levels - 1, side) for image in range(2)]
    np.testing.assert_allclose(ssim(one, other, levels - 1).numpy(), expected, rtol=1e-9)
    assert min(expected) < 0.99


@pytest.mark.parametrize(("name", "value"), [("K1", 0.02), ("K2", 0.02), ("SIGMA", 1.0), ("WINDOW", 9)])
def test_other_constants_of_ssim_are_noticed(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, name, value)
    with pytest.raises(AssertionError):
        test_ssim_is_that_by_hand((14, 13, 3), 256, 11)


# Use of the codebook.


@pytest.mark.parametrize(
    ("codes", "used", "perplexity"),
    [([0, 1, 2, 3], 1.0, 4.0), ([2, 2, 2, 2], 0.25, 1.0), ([0, 0, 3, 3], 0.5, 2.0), ([0, 0, 0, 1], 0.5, 4 / 27**0.25)],
)
def test_codes_are_counted(codes: list[int], used: float, perplexity: float) -> None:
    totals = SplitFigures(256, 4)
    images = draw(1, 4, 4, 1)
    totals.add(images, images, torch.tensor(codes).view(1, 2, 2))
    metrics = totals.metrics()
    assert metrics["codes_used"] == used
    assert metrics["perplexity"] == pytest.approx(perplexity, rel=1e-12)


def test_batches_do_not_matter() -> None:
    images, others, codes = draw(7, 12, 12, 2), draw(7, 12, 12, 2, seed=2), draw(7, 3, 3, levels=8)
    found = []
    for sizes in ([7], [3, 4], [1] * 7):
        totals = SplitFigures(256, 8)
        for batch in zip(*(each.split(sizes) for each in (images, others, codes)), strict=True):
            totals.add(*batch)
        found.append(totals.metrics())
    for each in found[1:]:
        assert each == pytest.approx(found[0], rel=1e-13)


# The spacing of noise levels.

GRID = [1 - step / 200 for step in range(200)] + [0.0]


def test_the_steps_of_a_linear_curve_are_equal() -> None:
    for kept in ([1.0, 0.0], [1.0, 0.7, 0.6, 0.0]):
        steps = equal_steps(kept, [3 * (1 - each) for each in kept], 4)
        assert steps == pytest.approx([0.75, 0.5, 0.25, 0.0])
        assert steps[-1] == 0


def test_the_steps_of_a_convex_curve_are_the_inverse_at_equal_distortions() -> None:
    steps = equal_steps(GRID, [5 * (1 - each) ** 2 for each in GRID], 5)
    assert steps == pytest.approx([1 - math.sqrt(part / 5) for part in range(1, 6)], abs=1e-3)
    assert equal_steps(GRID, [1 - each for each in GRID], 1) == [0.0]


def test_where_a_curve_falls_or_is_flat_its_maximum_counts() -> None:
    kept = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    steps = equal_steps(kept, [0.0, 0.0, 2.0, 1.0, 4.0, 4.0], 4)
    assert steps == pytest.approx([0.7, 0.6, 0.3, 0.0])


@pytest.mark.parametrize("kept", [[0.9, 0.0], [1.0, 0.1], [1.0, 0.5, 0.5, 0.0], [1.0, 0.2, 0.4, 0.0]])
def test_a_curve_over_other_probabilities_is_refused(kept: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^expected probabilities that fall from 1 to 0, got \["):
        equal_steps(kept, [1 - each for each in kept], 2)


def test_noise_that_changes_nothing_cannot_be_spaced() -> None:
    with pytest.raises(ValueError, match=r"^expected a distortion that rises with noise, got \["):
        equal_steps([1.0, 0.0], [0.0, 0.0], 2)


class CodesAsLevels(VqAutoencoder):
    """Decodes a code to the pixel of its level, so that the distortion is known."""

    def decode(self, codes: Tensor) -> UInt8[Tensor, "batch height width channel"]:
        return codes[..., None].to(torch.uint8)


def test_the_distortion_is_that_of_codes_that_are_kept_or_else_uniform() -> None:
    model = CodesAsLevels(VqSection(downsampling=1, codebook=4, width=2), 1, 256)
    codes = torch.full((130, 32, 32), 3)
    kept = [1.0, 0.75, 0.5, 0.0]
    found = distortion(model, codes, kept, torch.Generator().manual_seed(1))
    # A uniform code of 0..3 differs from 3 by 1.5 on average.
    assert found == pytest.approx([1.5 * (1 - each) for each in kept], abs=0.01)
    assert found[0] == 0
    assert found == distortion(model, codes, kept, torch.Generator().manual_seed(1))
    assert found != distortion(model, codes, kept, torch.Generator().manual_seed(2))


def test_the_same_noise_serves_all_levels_of_it() -> None:
    torch.manual_seed(5)
    model = CodesAsLevels(VqSection(downsampling=1, codebook=256, width=2), 1, 256)
    found = distortion(model, draw(1, 4, 4), GRID, torch.Generator().manual_seed(1))
    assert found == sorted(found)  # with other noise at each level, it would not rise at every one of them
    assert found[-1] > found[100] > 0
