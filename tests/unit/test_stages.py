"""What a stage cuts out of images and writes into them, by hand, for 4x6 pixels of three channels and three bits."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract import Part
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from spn.config import StagePlan, tile
from spn.likelihood import Categorical
from spn.models import Context, Model, StageShape
from spn.stages import Stage

SHAPE = (4, 6, 3)
META = torch.device("meta")
HIGH, MIDDLE, LOW = tile("chain", {f"b{bit}": Part(2, "all", (bit, bit + 1)) for bit in range(3)}, 3)
LOW_TWO = tile("chain", {"high": Part(2, "all", (0, 1)), "low": Part(2, "all", (1, 3))}, 3)[1]
(RASTER,) = tile("chain", {"raster": Part(1, "all", (0, 3))}, 3)
FIRST, REST = tile("chain", {"first": Part(2, "first", (0, 3)), "rest": Part(2, "rest", (0, 3))}, 3)


def slices_of(levels: list[list[int]], images: int = 1) -> Tensor:
    """Return images whose slice (m, n) has the level `levels[m][n]` everywhere."""
    full = torch.tensor(levels, dtype=torch.uint8)[None, :, :, None, None, None]
    return full.expand(images, -1, -1, 2, 3, 3).clone()


@pytest.mark.parametrize(
    ("plan", "shape"),
    [
        (RASTER, StageShape(4, 6, 3, num_levels=8, num_cells=0, context_levels=8, num_positions=1)),
        (HIGH, StageShape(2, 3, 3, num_levels=2, num_cells=4, context_levels=8, num_positions=4)),
        (REST, StageShape(2, 3, 3, num_levels=8, num_cells=4, context_levels=8, num_positions=4)),
        (
            LOW_TWO,
            StageShape(2, 3, 3, num_levels=4, num_cells=4 + 9, context_levels=8, num_positions=4, high_levels=2),
        ),
        (
            replace(LOW, num_classes=5),
            StageShape(2, 3, 3, 2, num_cells=13, context_levels=8, num_positions=4, high_levels=4, num_classes=5),
        ),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_a_shape_is_that_of_a_slice_and_of_what_it_is_shown(plan: StagePlan, shape: StageShape) -> None:
    stage = Stage(plan, SHAPE)
    assert stage.shape == shape
    assert stage.image_dims == 72
    assert stage.targets == plan.targets


@pytest.mark.parametrize(
    ("plan", "target", "high"), [(HIGH, 1, None), (MIDDLE, 1, 1), (LOW, 0, 3), (LOW_TWO, 2, 1), (REST, 6, None)]
)
def test_a_level_is_cut_where_the_bits_are(plan: StagePlan, target: int, high: int | None) -> None:
    """Of 6, in bits 110."""
    slices, position = slices_of([[7, 7], [6, 7]]), torch.tensor([[1, 0]])
    stage = Stage(plan, SHAPE)
    levels, known = stage.target(slices, position), stage.context(slices, position).high
    assert torch.equal(levels, torch.full((1, 2, 3, 3), target))
    if high is None:
        assert known is None
    else:
        assert known is not None
        assert torch.equal(known, torch.full((1, 2, 3, 3), high))


def test_every_image_has_a_position_of_its_own() -> None:
    slices = torch.cat([slices_of([[0, 1], [2, 3]]), slices_of([[4, 5], [6, 7]])])
    position = torch.tensor([[0, 1], [1, 0]])
    stage = Stage(REST, SHAPE)
    assert stage.target(slices, position).amax((1, 2, 3)).tolist() == [1, 6]
    context = stage.context(slices, position)
    assert context.position.tolist() == [1, 2]
    # Up-left, up, up-right and left of (0, 1), where (0, 0) alone is before it; of (1, 0), where the row above is.
    assert context.present.tolist() == [[False, False, False, True], [False, True, True, False]]
    assert context.cells.dtype == torch.int64
    assert context.cells.amax((2, 3, 4)).tolist() == [[0, 0, 0, 0], [0, 4, 5, 0]]


def test_later_slices_show_what_was_known_before_the_stage() -> None:
    context = Stage(LOW_TWO, SHAPE).context(slices_of([[5, 6], [7, 3]]), torch.tensor([[0, 1]]))
    causal, high = [0, 0, 0, 5], [0, 0, 0, 4, 4, 0, 4, 0, 0]
    assert context.cells.amax((2, 3, 4)).tolist() == [causal + high]
    # The last slice is there, though its high bit is 0.
    filled = [3, 7, 8, 10, 11]
    assert context.present[0].nonzero().flatten().tolist() == filled


@pytest.mark.parametrize("plan", [RASTER, FIRST], ids=lambda plan: plan.name)
def test_where_nothing_is_known_there_are_no_cells(plan: StagePlan) -> None:
    size = plan.scale_factor
    slices = torch.zeros(2, size, size, 4 // size, 6 // size, 3, dtype=torch.uint8)
    context = Stage(plan, SHAPE).context(slices, torch.zeros(2, 2, dtype=torch.int64))
    assert (context.cells.dtype, context.present.dtype) == (torch.int64, torch.bool)
    assert context.cells.shape == (2, 0, 4 // size, 6 // size, 3)
    assert context.present.shape == (2, 0)


def test_labels_reach_a_context() -> None:
    labels = torch.tensor([3, 1])
    stage = Stage(replace(REST, num_classes=5), SHAPE)
    context = stage.context(slices_of([[0, 1], [2, 3]], images=2), stage.positions((0, 1), 2), labels)
    assert context.label is labels
    assert Stage(REST, SHAPE).context(slices_of([[0, 1], [2, 3]]), stage.positions((0, 1), 1)).label is None


@pytest.mark.parametrize(("plan", "level", "filled"), [(HIGH, 0, 1), (MIDDLE, 1, 7), (LOW, 0, 4), (LOW_TWO, 2, 6)])
def test_levels_are_written_where_the_bits_are(plan: StagePlan, level: int, filled: int) -> None:
    """Into 5, in bits 101."""
    slices = slices_of([[5, 5], [5, 5]], images=2)
    actual = Stage(plan, SHAPE).insert(slices, (0, 1), torch.full((2, 2, 3, 3), level))
    assert actual.dtype == torch.uint8
    assert torch.equal(actual, slices_of([[5, filled], [5, 5]], images=2))
    assert torch.equal(slices, slices_of([[5, 5], [5, 5]], images=2)), "a copy is filled"


class Told(Model):
    """A model whose law is the same everywhere, and that notes what it is told."""

    embed_target = embed_context = laws = steps = None  # type: ignore[assignment]

    def forward(self, levels: Tensor, context: Context) -> Categorical:
        """Return a law by which the levels 0, 1, 2, 3 have the shares 1, 2, 3, 4 of ten."""
        self.levels, self.context = levels, context
        return Categorical(torch.tensor([1.0, 2.0, 3.0, 4.0]).log().expand(*levels.shape, 4))


def test_nats_are_of_all_sub_pixels_of_each_target() -> None:
    stage, model = Stage(replace(LOW_TWO, num_classes=3), SHAPE), Told()
    # 4 and 6 are 0 and 2 in their two low bits.
    slices, position = slices_of([[4, 6], [6, 6]], images=2), torch.tensor([[0, 0], [1, 1]])
    labels = torch.tensor([2, 0])
    nats = stage.nats(model, slices, position, labels)
    assert nats.dtype == torch.float64
    assert nats.tolist() == pytest.approx([-18 * math.log(0.1), -18 * math.log(0.3)], rel=1e-6)
    assert torch.equal(model.levels, stage.target(slices, position))
    assert torch.equal(model.context.position, torch.tensor([0, 3]))
    assert model.context.label is labels


def test_one_position_is_repeated_for_a_batch() -> None:
    stage = Stage(REST, SHAPE)
    assert stage.positions((1, 0), 3).tolist() == [[1, 0]] * 3
    assert stage.positions((1, 0), 3, META).device == META


class Copies(TorchDispatchMode):
    """Counts copies from one device to another."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a copy, and go on."""
        self.count += function is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") not in (
            None,
            args[0].device,
        )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "copies"), [(META, 0), (torch.device("cpu"), 4)])
def test_contexts_are_gathered_where_the_slices_are(device: torch.device, copies: int) -> None:
    """Without a copy to there if the stage was made for that device: two windows have their bits and offsets."""
    stage = Stage(LOW_TWO, SHAPE, device)
    slices, position = slices_of([[5, 6], [7, 3]]).to(META), torch.zeros(1, 2, dtype=torch.int64, device=META)
    with Copies() as counted:  # type: ignore[no-untyped-call]
        context = stage.context(slices, position)
    assert context.cells.device == context.present.device == META
    assert context.cells.shape == (1, 13, 2, 3, 3)
    assert counted.count == copies
