"""Plants bugs in what only the other families have, and states which checks of the contract catch each."""

from collections.abc import Callable

import pytest
import torch
from contract import MODEL_CHECKS, Problem, build_problem, chains
from families import SECTIONS
from torch import Tensor, nn

from spn.layers import (
    MixtureHeadSteps,
    ShiftedUpsampling,
    StrictAttentionSteps,
    UpsamplingSteps,
    shifted_start,
    strict_attention,
)
from spn.likelihood import DiscretisedMixture, Law
from spn.models import Context, pixelcnn_pp

Plant = Callable[[pytest.MonkeyPatch], None]


def image_not_shifted_right(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shifted_start, "right_shift", lambda features: features)


def upsampled_pixels_one_to_the_left(patch: pytest.MonkeyPatch) -> None:
    sound = ShiftedUpsampling.forward

    def shifted(self: ShiftedUpsampling, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(sound(self, features)[:, :, 1:], (0, 0, 0, 1))

    patch.setattr(ShiftedUpsampling, "forward", shifted)


def attention_to_the_pixel_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(strict_attention, "_nothing_first", lambda tokens: tokens)


def group_of_the_high_bits_forgotten(patch: pytest.MonkeyPatch) -> None:
    def log_prob(self: DiscretisedMixture, levels: Tensor) -> Tensor:
        return torch.logsumexp(self._weights() + self._log_mass(*self._bin(levels)), -1)

    patch.setattr(DiscretisedMixture, "log_prob", log_prob)


def green_shifted_by_blue(patch: pytest.MonkeyPatch) -> None:
    sound = pixelcnn_pp.PixelCnnPp.laws

    def laws(self: pixelcnn_pp.PixelCnnPp, embedded: Tensor, embedded_context: Tensor | None, context: Context) -> Law:
        head = self.head.forward
        patch.setattr(self.head, "forward", lambda features, values, high: head(features, values.roll(-1, -1), high))
        found = sound(self, embedded, embedded_context, context)
        patch.setattr(self.head, "forward", head)
        return found

    patch.setattr(pixelcnn_pp.PixelCnnPp, "laws", laws)


def red_is_black_in_the_step_form(patch: pytest.MonkeyPatch) -> None:
    sound = MixtureHeadSteps.observe
    patch.setattr(MixtureHeadSteps, "observe", lambda self, channel, levels: sound(self, channel, 0 * levels))


def rows_below_swapped_in_the_step_form(patch: pytest.MonkeyPatch) -> None:
    sound = UpsamplingSteps.pixel
    patch.setattr(UpsamplingSteps, "pixel", lambda self, row, column: sound(self, row + 1, column))


def last_pixel_not_attended_to_in_the_step_form(patch: pytest.MonkeyPatch) -> None:
    sound = StrictAttentionSteps.step
    patch.setattr(StrictAttentionSteps, "step", lambda self, pixel, features: sound(self, max(0, pixel - 1), features))


LEAK = {"causality", "walk", "cached_walk"}
CAUGHT: dict[tuple[Plant, str, str, int], set[str]] = {
    (image_not_shifted_right, "pixelcnn_pp", "raster", 1): LEAK,
    (image_not_shifted_right, "pixelsnail", "raster", 1): LEAK,
    (upsampled_pixels_one_to_the_left, "pixelcnn_pp", "raster", 1): LEAK,
    (attention_to_the_pixel_itself, "pixelsnail", "raster", 1): LEAK,
    (group_of_the_high_bits_forgotten, "pixelcnn_pp", "depth", 1): {"law"},
    (green_shifted_by_blue, "pixelcnn_pp", "raster", 3): {"no_blind_spot", *LEAK},
    (red_is_black_in_the_step_form, "pixelcnn_pp", "raster", 3): {"cached_walk"},
    (rows_below_swapped_in_the_step_form, "pixelcnn_pp", "raster", 1): {"cached_walk"},
    (last_pixel_not_attended_to_in_the_step_form, "pixelsnail", "raster", 1): {"cached_walk"},
}


def caught_by(problem: Problem) -> set[str]:
    failed = set()
    for check in MODEL_CHECKS:
        try:
            check(problem)
        except AssertionError:
            failed.add(check.__name__.removeprefix("check_"))
    return failed


@pytest.mark.parametrize("bug", CAUGHT, ids=lambda bug: "-".join([bug[0].__name__, bug[1]]))
def test_a_planted_bug_is_caught(bug: tuple[Plant, str, str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    plant, family, chain, channels = bug
    plant(monkeypatch)
    side = 4 if family == "pixelcnn_pp" else 3
    problem = build_problem(chains(1, 2)[chain], (side, side, channels), 2, SECTIONS[family])
    assert caught_by(problem) == CAUGHT[bug]
