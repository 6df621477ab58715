"""Plants bugs in what only the other families have, and states which checks of the contract catch each."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from contract import MODEL_CHECKS, Check, Problem, build_problem, chains
from families import SECTIONS
from torch import Tensor, nn

from spn.layers import (
    MixtureHeadSteps,
    ShiftedUpsampling,
    StrictAttentionSteps,
    TransformerSteps,
    UpsamplingSteps,
    shifted_start,
    strict_attention,
    transformer,
)
from spn.likelihood import DiscretisedMixture, Law
from spn.models import Context, imagebart, pixelcnn_pp

pytestmark = pytest.mark.slow

Plant = Callable[[pytest.MonkeyPatch], None]
Bug = tuple[Plant, str, str, int]
"""A plant, and the family, chain and channels that it is planted for."""


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


def decoder_not_shifted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(imagebart, "raster_shift", lambda pixels, first: pixels)


def context_attended_to_causally(patch: pytest.MonkeyPatch) -> None:
    sound = transformer.attention  # type: ignore[attr-defined]
    patch.setattr(transformer, "attention", lambda *inputs, is_causal: sound(*inputs, is_causal=True))


def absence_is_level_zero(patch: pytest.MonkeyPatch) -> None:
    def forward(self: imagebart.Encoder, context: Context) -> Tensor:
        return sound(self, replace(context, present=torch.ones_like(context.present)))

    sound = imagebart.Encoder.forward
    patch.setattr(imagebart.Encoder, "forward", forward)


def context_of_the_slice_before_attended_to(patch: pytest.MonkeyPatch) -> None:
    sound = transformer._ContextSteps.begin
    begun = set[int]()

    def begin(self: transformer._ContextSteps, context: Tensor) -> None:
        if id(self) not in begun:
            sound(self, context)
            begun.add(id(self))

    patch.setattr(transformer._ContextSteps, "begin", begin)


def first_pixel_follows_the_slice_before(patch: pytest.MonkeyPatch) -> None:
    sound = imagebart.ImageBartSteps.begin

    def begin(self: imagebart.ImageBartSteps, context: Context) -> None:
        kept = self._token.clone()
        sound(self, context)
        self._token.copy_(kept)

    patch.setattr(imagebart.ImageBartSteps, "begin", begin)


def position_of_the_pixel_before_in_the_step_form(patch: pytest.MonkeyPatch) -> None:
    sound = TransformerSteps.start_row

    def start_row(self: TransformerSteps, row: int, context: Tensor | None) -> None:
        sound(self, row, context)
        self._entering.copy_(self._entering.roll(1, dims=1))

    patch.setattr(TransformerSteps, "start_row", start_row)


LEAK = {"causality", "walk", "cached_walk"}
CAUGHT: dict[Bug, set[str]] = {
    (image_not_shifted_right, "pixelcnn_pp", "raster", 1): LEAK,
    (image_not_shifted_right, "pixelsnail", "raster", 1): LEAK,
    (upsampled_pixels_one_to_the_left, "pixelcnn_pp", "raster", 1): LEAK,
    (attention_to_the_pixel_itself, "pixelsnail", "raster", 1): LEAK,
    (group_of_the_high_bits_forgotten, "pixelcnn_pp", "depth", 1): {"law"},
    (green_shifted_by_blue, "pixelcnn_pp", "raster", 3): {"no_blind_spot", *LEAK},
    (red_is_black_in_the_step_form, "pixelcnn_pp", "raster", 3): {"cached_walk"},
    (rows_below_swapped_in_the_step_form, "pixelcnn_pp", "raster", 1): {"cached_walk"},
    (last_pixel_not_attended_to_in_the_step_form, "pixelsnail", "raster", 1): {"cached_walk"},
    (decoder_not_shifted, "imagebart", "raster", 1): LEAK,
    (context_attended_to_causally, "imagebart", "subscale", 1): {"cached_walk"},
    (absence_is_level_zero, "imagebart", "subscale", 1): {"context_is_used"},
    (context_of_the_slice_before_attended_to, "imagebart", "subscale", 1): {"cached_walk"},
    (first_pixel_follows_the_slice_before, "imagebart", "subscale", 1): {"cached_walk"},
    (position_of_the_pixel_before_in_the_step_form, "imagebart", "raster", 1): {"cached_walk"},
}


NAMES = {check.__name__.removeprefix("check_"): check for check in MODEL_CHECKS}
BUGS = pytest.mark.parametrize("bug", CAUGHT, ids=lambda bug: "-".join([bug[0].__name__, bug[1]]))


def caught_by(bug: Bug, names: set[str], patch: pytest.MonkeyPatch) -> set[str]:
    """Plant a bug, apply the checks of these names, and name those that fail."""
    plant, family, chain, channels = bug
    plant(patch)
    side = 4 if family == "pixelcnn_pp" or chain == "subscale" else 3
    problem = build_problem(chains(1, 2)[chain], (side, side, channels), 2, SECTIONS[family])
    return {name for name in names if fails(NAMES[name], problem)}


def fails(check: Check, problem: Problem) -> bool:
    try:
        check(problem)
    except AssertionError:
        return True
    return False


@BUGS
def test_a_planted_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught_by(bug, CAUGHT[bug], monkeypatch) == CAUGHT[bug]


@BUGS
def test_no_other_check_catches_a_planted_bug(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught_by(bug, NAMES.keys() - CAUGHT[bug], monkeypatch) == set()
