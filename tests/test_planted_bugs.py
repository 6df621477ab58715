"""Plants bugs, one at a time, and states which checks of the contract catch each.

No check catches all of them, and some bugs are caught by one check alone: that is why there are so many.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import contract
import pytest
import torch
from contract import Check, Problem, build_problem, chains
from torch import Tensor, nn

from spn.config import InputError, StagePlan
from spn.evaluation.check import check_stage
from spn.generation import keyed_uniforms
from spn.image import gather_window, window_offsets
from spn.layers import ChannelCausalLinear, HorizontalConv, ScaledIntensity
from spn.likelihood import Categorical
from spn.models import Context, Model, spn
from spn.models.spn import GatedPixelCNN, SubscalePixelNetwork

Plant = Callable[[pytest.MonkeyPatch], None]
CHAINS = chains(1, 2)


def stages() -> list[Problem]:
    return [Problem((4, 4, 3), 2, contract.tile("chain", CHAINS["multidimensional"], 2), models=())]


def models() -> list[Problem]:
    return [build_problem(CHAINS["size"], (4, 4, 3), 2)]


def samples() -> list[Problem]:
    return [build_problem(CHAINS["multidimensional"], (2, 4, 1), 2), build_problem(CHAINS["raster"], (1, 2, 3), 2)]


def tiny() -> list[Problem]:
    return [
        build_problem(CHAINS["multidimensional"], (2, 2, 1), 2),
        build_problem(CHAINS["depth"], (1, 3, 1), 2),
        build_problem(CHAINS["raster"], (1, 1, 3), 2),
    ]


def binary() -> list[Problem]:
    return [build_problem(chains(1, 1)["subscale"], (2, 2, 1), 1)]


STANDS: tuple[tuple[Callable[[], list[Problem]], Sequence[Check]], ...] = (
    (stages, contract.STAGE_CHECKS),
    (models, contract.MODEL_CHECKS),
    (samples, contract.SAMPLE_CHECKS),
    (tiny, contract.MASS_CHECKS),
    (binary, [contract.check_frequencies]),
)
"""On which problems each check is applied."""


def caught_by() -> set[str]:
    """Apply every check, and name those that fail."""
    failed = set()
    for build, checks in STANDS:
        problems = build()
        for check in checks:
            if any(fails(check, problem) for problem in problems):
                failed.add(check.__name__.removeprefix("check_"))
    return failed


def fails(check: Check, problem: Problem) -> bool:
    try:
        check(problem)
    except AssertionError:
        return True
    return False


# Bugs of the model.


def mask_b_for_mask_a(patch: pytest.MonkeyPatch) -> None:
    def lenient(num_in: int, num_out: int, num_channels: int, strict: bool) -> HorizontalConv:
        return HorizontalConv(num_in, num_out, num_channels, strict=False)

    patch.setattr(spn, "HorizontalConv", lenient)


def vertical_stack_not_shifted_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spn, "down_shift", lambda features: features)


def transformer_not_shifted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spn, "raster_shift", lambda features: features)


def vertical_stack_sees_the_transformer(patch: pytest.MonkeyPatch) -> None:
    sound = GatedPixelCNN.forward
    patch.setattr(GatedPixelCNN, "forward", lambda self, embedded, both: sound(self, embedded, (both[1], both[1])))


class BlueSeenByGreen(ChannelCausalLinear):
    def __init__(self, num_in: int, num_out: int, num_channels: int, strict: bool) -> None:
        super().__init__(num_in, num_out, num_channels, strict)
        self.leaks = strict and num_channels == 3
        if self.leaks:
            self.groups[1] = nn.Linear(2 * num_in // 3, num_out // 3)

    def forward(self, features: Tensor) -> Tensor:
        if not self.leaks:
            return super().forward(features)
        red, green, blue = features.chunk(3, dim=-1)
        seen = (red[..., :0], torch.cat((red, blue), dim=-1), torch.cat((red, green), dim=-1))
        return torch.cat([group(part) for group, part in zip(self.groups, seen, strict=True)], dim=-1)


def blue_seen_by_green(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("spn.layers.causal.ChannelCausalLinear", BlueSeenByGreen)


def channels_in_another_order(patch: pytest.MonkeyPatch) -> None:
    sound = GatedPixelCNN.forward

    def swapped(self: GatedPixelCNN, embedded: Tensor, conditions: Any) -> Tensor:
        order = [0, 2, 1] if self.channels == 3 else [0]
        grouped = embedded.unflatten(-1, (self.channels, -1))[..., order, :]
        return sound(self, grouped.flatten(-2), conditions)[..., order, :]

    patch.setattr(GatedPixelCNN, "forward", swapped)


def gate_across_channels(patch: pytest.MonkeyPatch) -> None:
    def gate(features: Tensor, num_groups: int) -> Tensor:
        half, other = features.chunk(2, dim=-1)
        return half.tanh() * other.sigmoid()

    patch.setattr(spn, "_gate", gate)


def nothing_above_is_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spn, "down_shift", torch.zeros_like)
    patch.setattr(spn, "raster_shift", torch.zeros_like)


def context_is_ignored(patch: pytest.MonkeyPatch) -> None:
    sound = SubscalePixelNetwork.embed_context

    def deaf(self: Model, context: Context) -> Tensor | None:
        features = sound(self, context)
        return None if features is None else torch.zeros_like(features)

    patch.setattr(SubscalePixelNetwork, "embed_context", deaf)


def padding_is_intensity_zero(patch: pytest.MonkeyPatch) -> None:
    sound = ScaledIntensity.forward
    patch.setattr(
        ScaledIntensity, "forward", lambda self, levels, present: sound(self, levels, torch.ones_like(present))
    )


# Bugs of the law.


def float32_for_float64(patch: pytest.MonkeyPatch) -> None:
    sound = Categorical.log_prob
    patch.setattr(Categorical, "log_prob", lambda self, levels: sound(Categorical(self.logits.float()), levels))


def softmax_over_the_wrong_axis(patch: pytest.MonkeyPatch) -> None:
    def log_prob(self: Categorical, levels: Tensor) -> Tensor:
        return self.logits.log_softmax(-2).gather(-1, levels[..., None])[..., 0]

    patch.setattr(Categorical, "log_prob", log_prob)


def softmax_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Categorical, "log_prob", lambda self, levels: self.logits.gather(-1, levels[..., None])[..., 0])


# Bugs of the stage.


def replace_plans(patch: pytest.MonkeyPatch, change: Callable[[tuple[StagePlan, ...]], tuple[StagePlan, ...]]) -> None:
    sound = contract.tile
    patch.setattr(contract, "tile", lambda *arguments: change(sound(*arguments)))


def stages_overlap(patch: pytest.MonkeyPatch) -> None:
    replace_plans(patch, lambda plans: (*plans, replace(plans[-1], name="again")))


def stage_left_out(patch: pytest.MonkeyPatch) -> None:
    replace_plans(patch, lambda plans: plans[1:] or plans)


def plan_knows_what_comes_later(patch: pytest.MonkeyPatch) -> None:
    def all_known(plan: StagePlan) -> StagePlan:
        return replace(plan, known=tuple(tuple(mask or plan.own_mask for mask in row) for row in plan.known))

    replace_plans(patch, lambda plans: tuple(map(all_known, plans)))


def later_slices_in_the_causal_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("spn.stages.causal_offsets", window_offsets)


def low_bits_shown_to_the_high_bit_stage(patch: pytest.MonkeyPatch) -> None:
    def unmasked(slices: Tensor, visible: Tensor, *where: Any) -> tuple[Tensor, Tensor]:
        return gather_window(slices, torch.where(visible != 0, 0xFF, 0), *where)

    patch.setattr("spn.stages.gather_window", unmasked)


def shift_window(patch: pytest.MonkeyPatch, down: int, right: int) -> None:
    def shifted(slices: Tensor, visible: Tensor, position: Tensor, offsets: list[tuple[int, int]]) -> Any:
        return gather_window(slices, visible, position, [(di + down, dj + right) for di, dj in offsets])

    patch.setattr("spn.stages.gather_window", shifted)


def window_shifted_onto_the_target(patch: pytest.MonkeyPatch) -> None:
    shift_window(patch, 0, 1)


def window_shifted_away_from_the_target(patch: pytest.MonkeyPatch) -> None:
    shift_window(patch, 0, -1)


def window_of_the_transposed_position(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "spn.stages.gather_window",
        lambda slices, visible, position, offsets: gather_window(slices, visible, position.flip(-1), offsets),
    )


# Bugs of sampling.


def sampled_backwards(patch: pytest.MonkeyPatch) -> None:
    def backwards(model: Model, context: Context, choose: Callable[..., Tensor]) -> Tensor:
        shape = model.signature
        levels = torch.zeros(len(context.cells), shape.height, shape.width, shape.channels, dtype=torch.long)
        features = model.embed_context(context)
        for place in reversed(list(torch.ones(levels.shape[1:]).nonzero().tolist())):
            here = tuple(place)
            levels[:, *here] = choose(here, model.laws(model.embed_target(levels), features).select(*here))
        return levels

    patch.setattr("spn.generation.sample.walk", backwards)


def uniforms_keyed_by_place_in_the_batch(patch: pytest.MonkeyPatch) -> None:
    def by_place(seed: int, stage: str, position: tuple[int, int], images: Sequence[int], shape: Any) -> Tensor:
        return keyed_uniforms(seed, stage, position, range(len(images)), shape)

    patch.setattr("spn.generation.sample.keyed_uniforms", by_place)


def uniforms_the_same_for_all_slices(patch: pytest.MonkeyPatch) -> None:
    def of_first(seed: int, stage: str, position: tuple[int, int], images: Sequence[int], shape: Any) -> Tensor:
        return keyed_uniforms(seed, stage, (0, 0), images, shape)

    patch.setattr("spn.generation.sample.keyed_uniforms", of_first)


SEES_ITSELF = {"causality", "target_mass", "chain_mass", "walk", "samples_replay"}
SHOWS_TOO_MUCH = {"contexts", "later_bits_are_hidden", "hidden_bits_leak", "chain_mass", "samples_replay"}

CAUGHT_BY: dict[Plant, set[str]] = {
    mask_b_for_mask_a: SEES_ITSELF,
    vertical_stack_not_shifted_down: SEES_ITSELF,
    transformer_not_shifted: SEES_ITSELF,
    vertical_stack_sees_the_transformer: SEES_ITSELF,
    blue_seen_by_green: SEES_ITSELF,
    gate_across_channels: SEES_ITSELF,
    # Normalised: it is a likelihood, but of another order than that of the walk.
    channels_in_another_order: {"causality", "no_blind_spot", "walk", "samples_replay"},
    # Sound likelihoods, but worse ones.
    nothing_above_is_seen: {"no_blind_spot"},
    context_is_ignored: {"context_is_used"},
    padding_is_intensity_zero: {"context_is_used"},
    float32_for_float64: {"law", "target_mass", "chain_mass"},
    softmax_over_the_wrong_axis: {"law", "target_mass", "chain_mass", "walk", "frequencies"},
    softmax_forgotten: {"law", "target_mass", "chain_mass", "frequencies"},
    stages_overlap: {"every_bit_once", "contexts", "chain_mass", "samples_replay", "frequencies"},
    stage_left_out: {"every_bit_once", "contexts", "later_bits_are_hidden", "round_trip", "chain_mass"},
    # `hidden_bits_leak` believes the plan.
    plan_knows_what_comes_later: SHOWS_TOO_MUCH - {"hidden_bits_leak"},
    later_slices_in_the_causal_window: SHOWS_TOO_MUCH,
    low_bits_shown_to_the_high_bit_stage: SHOWS_TOO_MUCH,
    window_shifted_onto_the_target: SHOWS_TOO_MUCH,
    window_of_the_transposed_position: SHOWS_TOO_MUCH,
    # Causal and normalised: only the formula of the window knows better.
    window_shifted_away_from_the_target: {"contexts"},
    sampled_backwards: {"samples_replay"},
    uniforms_keyed_by_place_in_the_batch: {"batches"},
    uniforms_the_same_for_all_slices: {"frequencies"},
}


def test_every_check_catches_something() -> None:
    names = {check.__name__.removeprefix("check_") for _, checks in STANDS for check in checks}
    assert names == set().union(*CAUGHT_BY.values())


def test_sound_code_passes_every_check() -> None:
    assert caught_by() == set()


@pytest.mark.parametrize("plant", CAUGHT_BY, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught_by() == CAUGHT_BY[plant]


def checked() -> list[str]:
    """Run `spn check` on every stage of a small chain."""
    (problem,) = stages()
    return [check_stage(plan, problem.shape, contract.SMALL, seed=1) for plan in problem.plans]


def test_spn_check_says_in_one_line_that_a_stage_is_sound() -> None:
    for line, name in zip(checked(), CHAINS["multidimensional"], strict=True):
        assert line.startswith(f"{name}: causal")
        assert "0 blind spots" in line
        assert line.splitlines() == [line]


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (mask_b_for_mask_a, "stages.first_high: a law depends on what comes after it"),
        (vertical_stack_sees_the_transformer, "stages.rest_high: a law depends on what comes after it"),
        (channels_in_another_order, "stages.first_high: a law depends on what comes after it"),
        (later_slices_in_the_causal_window, "stages.rest_high: the context of slices"),
        (low_bits_shown_to_the_high_bit_stage, "stages.rest_high: the context of slices"),
        (softmax_forgotten, "stages.first_high: expected probabilities that sum to 1, got"),
    ],
)
def test_spn_check_names_the_stage_that_is_not(plant: Plant, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(InputError) as caught:
        checked()
    assert str(caught.value).startswith(message)
    assert str(caught.value).splitlines() == [str(caught.value)]
