"""Bugs to plant, each a function that patches sound code."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spn.config import StagePlan, tile
from spn.generation import Choose, keyed_uniforms, walk
from spn.image import gather_window, window_offsets
from spn.layers import (
    ChannelCausalLinear,
    GatedLayerSteps,
    GatedStacks,
    HorizontalConv,
    ScaledIntensity,
    TransformerSteps,
    gated,
    gated_stacks,
)
from spn.likelihood import Categorical
from spn.models import Context, Steps, spn
from spn.models.spn import SubscalePixelNetwork, SubscaleSteps
from spn.stages import ordered

Plant = Callable[[pytest.MonkeyPatch], None]

# Bugs of the model.


def mask_b_for_mask_a(patch: pytest.MonkeyPatch) -> None:
    def lenient(num_in: int, num_out: int, num_channels: int, strict: bool) -> HorizontalConv:
        return HorizontalConv(num_in, num_out, num_channels, strict=False)

    patch.setattr(gated, "HorizontalConv", lenient)


def vertical_stack_not_shifted_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gated_stacks, "down_shift", lambda features: features)


def transformer_not_shifted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spn, "raster_shift", lambda features: features)


def vertical_stack_sees_the_transformer(patch: pytest.MonkeyPatch) -> None:
    sound = GatedStacks.forward
    patch.setattr(
        GatedStacks,
        "forward",
        lambda self, embedded, values, both, high: sound(self, embedded, values, (both[1], both[1]), high),
    )


class BlueSeenByGreen(ChannelCausalLinear):
    def __init__(self, num_in: int, num_out: int, num_channels: int, strict: bool) -> None:
        super().__init__(num_in, num_out, num_channels, strict)
        if strict and num_channels == 3:
            self.groups[1], self.seen[1] = nn.Linear(num_in, num_out // 3), num_in


def blue_seen_by_green(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("spn.layers.causal.ChannelCausalLinear", BlueSeenByGreen)


def channels_in_another_order(patch: pytest.MonkeyPatch) -> None:
    sound = SubscalePixelNetwork.laws

    def swapped(
        self: SubscalePixelNetwork, embedded: Tensor, embedded_context: Tensor | None, context: Context
    ) -> Categorical:
        order = [0, 2, 1] if self.shape.channels == 3 else [0]
        laws = sound(self, embedded[..., order, :], embedded_context, context)
        return Categorical(laws.probs()[..., order, :].log())

    patch.setattr(SubscalePixelNetwork, "laws", swapped)


def gate_across_channels(patch: pytest.MonkeyPatch) -> None:
    def gate(features: Tensor, num_groups: int) -> Tensor:
        half, other = features.chunk(2, dim=-1)
        return half.tanh() * other.sigmoid()

    patch.setattr(gated, "gate", gate)


def nothing_above_is_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gated_stacks, "down_shift", torch.zeros_like)
    patch.setattr(spn, "raster_shift", torch.zeros_like)


def context_is_ignored(patch: pytest.MonkeyPatch) -> None:
    sound = SubscalePixelNetwork.embed_context

    def deaf(self: SubscalePixelNetwork, context: Context) -> Tensor | None:
        features = sound(self, context)
        return None if features is None else torch.zeros_like(features)

    patch.setattr(SubscalePixelNetwork, "embed_context", deaf)


def padding_is_intensity_zero(patch: pytest.MonkeyPatch) -> None:
    sound = ScaledIntensity.forward
    patch.setattr(
        ScaledIntensity, "forward", lambda self, levels, present: sound(self, levels, torch.ones_like(present))
    )


# Bugs of the step form.


def slice_before_is_remembered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GatedLayerSteps, "begin", lambda self: None)


def left_of_the_first_column_is_the_row_above(patch: pytest.MonkeyPatch) -> None:
    sound = GatedLayerSteps.start_row

    def start_row(self: GatedLayerSteps, vertical: Tensor, conditions: Any) -> Tensor:
        kept = self.inputs.clone()
        row = sound(self, vertical, conditions)
        self.inputs.copy_(kept)
        return row

    patch.setattr(GatedLayerSteps, "start_row", start_row)


def rows_overlap_in_the_cache(patch: pytest.MonkeyPatch) -> None:
    sound = TransformerSteps.start_row

    def start_row(self: TransformerSteps, row: int, context: Tensor | None) -> None:
        sound(self, row, context)
        self._first -= row > 0

    patch.setattr(TransformerSteps, "start_row", start_row)


def pixel_is_not_remembered(patch: pytest.MonkeyPatch) -> None:
    sound = SubscaleSteps.observe

    def observe(self: SubscaleSteps, channel: int, levels: Tensor) -> None:
        kept = self._previous.clone()
        sound(self, channel, levels)
        self._previous.copy_(kept)

    patch.setattr(SubscaleSteps, "observe", observe)


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
    patch.setattr("contract.problem.tile", lambda *arguments: change(tile(*arguments)))


def stages_overlap(patch: pytest.MonkeyPatch) -> None:
    replace_plans(patch, lambda plans: (*plans, replace(plans[-1], name="again")))


def stage_left_out(patch: pytest.MonkeyPatch) -> None:
    replace_plans(patch, lambda plans: plans[1:] or plans)


def plan_knows_what_comes_later(patch: pytest.MonkeyPatch) -> None:
    def all_known(plan: StagePlan) -> StagePlan:
        return replace(plan, known=tuple(tuple(mask or plan.own_mask for mask in row) for row in plan.known))

    replace_plans(patch, lambda plans: tuple(map(all_known, plans)))


def later_slices_in_the_causal_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("spn.stages.cells.causal_offsets", window_offsets)


def later_slices_in_the_window_of_an_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "spn.stages.ordered._earlier",
        lambda plan: torch.ones(*[plan.scale_factor] * 4, dtype=torch.bool).tolist(),
    )


def slices_before_in_raster_order(patch: pytest.MonkeyPatch) -> None:
    sound = ordered._earlier
    patch.setattr(ordered, "_earlier", lambda plan: sound(replace(plan, targets=tuple(sorted(plan.targets)))))


def low_bits_shown_to_the_high_bit_stage(patch: pytest.MonkeyPatch) -> None:
    def unmasked(slices: Tensor, visible: Tensor, *where: Any) -> tuple[Tensor, Tensor]:
        return gather_window(slices, torch.where(visible != 0, 0xFF, 0), *where)

    patch.setattr("spn.stages.cells.gather_window", unmasked)


def high_bits_shown_that_come_later(patch: pytest.MonkeyPatch) -> None:
    def levels(plan: StagePlan) -> int:
        above = (1 << plan.image_bits) - (1 << (plan.image_bits - plan.bits[0]))
        return 1 << plan.bits[0] if any(plan.known[m][n] & above == above for m, n in plan.targets) else 1

    patch.setattr(StagePlan, "high_levels", property(levels))


def shift_window(patch: pytest.MonkeyPatch, down: int, right: int) -> None:
    def shifted(slices: Tensor, visible: Tensor, position: Tensor, offsets: Tensor) -> Any:
        return gather_window(slices, visible, position, offsets + torch.tensor([down, right]))

    patch.setattr("spn.stages.cells.gather_window", shifted)


def window_shifted_onto_the_target(patch: pytest.MonkeyPatch) -> None:
    shift_window(patch, 0, 1)


def window_shifted_away_from_the_target(patch: pytest.MonkeyPatch) -> None:
    shift_window(patch, 0, -1)


def window_of_the_transposed_position(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "spn.stages.cells.gather_window",
        lambda slices, visible, position, offsets: gather_window(slices, visible, position.flip(-1), offsets),
    )


# Bugs of sampling.


def sampled_backwards(patch: pytest.MonkeyPatch) -> None:
    def backwards(steps: Steps, context: Context, given: Tensor, choose: Choose) -> Tensor:
        return walk(steps, context, given.flip(1, 2), choose).flip(1, 2)

    patch.setattr("spn.generation.samplers.walk", backwards)


def uniforms_keyed_by_place_in_the_batch(patch: pytest.MonkeyPatch) -> None:
    def by_place(seed: int, stage: str, position: tuple[int, int], images: Sequence[int], shape: Any) -> Tensor:
        return keyed_uniforms(seed, stage, position, range(len(images)), shape)

    patch.setattr("spn.generation.sample.keyed_uniforms", by_place)


def uniforms_the_same_for_all_slices(patch: pytest.MonkeyPatch) -> None:
    def of_first(seed: int, stage: str, position: tuple[int, int], images: Sequence[int], shape: Any) -> Tensor:
        return keyed_uniforms(seed, stage, (0, 0), images, shape)

    patch.setattr("spn.generation.sample.keyed_uniforms", of_first)
