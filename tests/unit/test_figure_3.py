"""The orders and networks of Menick & Kalchbrenner 2018, Fig. 3, on its 4x4 image."""

import numpy as np
import pytest
import torch
from contract import Chain, Part
from order import Step, generation_order, step_numbers
from torch import Tensor

from spn.config import StagePlan, tile
from spn.generation import SAMPLERS, choosing, sample_stage
from spn.likelihood import Categorical
from spn.models import Context, Model, StageShape
from spn.stages import Stage

RASTER: Chain = {"raster": Part(1, "all", (0, 2))}
SUBSCALE: Chain = {"subscale": Part(2, "all", (0, 2))}
SIZE: Chain = {"first": Part(2, "first", (0, 2)), "rest": Part(2, "rest", (0, 2))}
DEPTH: Chain = {"high": Part(2, "all", (0, 1)), "low": Part(2, "all", (1, 2))}
MULTIDIMENSIONAL: Chain = {
    "first_high": Part(2, "first", (0, 1)),
    "rest_high": Part(2, "rest", (0, 1)),
    "low": Part(2, "all", (1, 2)),
}

# Fig. 3: panels (a), (d) and (e), (f) and (g); steps of the most significant bits, and of the least significant ones.
FIGURE_A = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
FIGURE_D = [[1, 5, 2, 6], [9, 13, 10, 14], [3, 7, 4, 8], [11, 15, 12, 16]]
FIGURE_F_LOW = [[17, 21, 18, 22], [25, 29, 26, 30], [19, 23, 20, 24], [27, 31, 28, 32]]

FIGURE = [
    pytest.param(RASTER, FIGURE_A, FIGURE_A, id="a"),
    pytest.param(SUBSCALE, FIGURE_D, FIGURE_D, id="d"),
    pytest.param(SIZE, FIGURE_D, FIGURE_D, id="e"),
    pytest.param(DEPTH, FIGURE_D, FIGURE_F_LOW, id="f"),
    pytest.param(MULTIDIMENSIONAL, FIGURE_D, FIGURE_F_LOW, id="g"),
]


@pytest.mark.parametrize(("chain", "high", "low"), FIGURE)
def test_step_numbers_of_figure_3(chain: Chain, high: list[list[int]], low: list[list[int]]) -> None:
    steps = generation_order(tile("chain", chain, 2), 4, 4)
    numbers = step_numbers(steps, (2, 4, 4))
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [high, low]


@pytest.mark.parametrize(("chain", "high", "low"), FIGURE)
def test_sampling_takes_the_steps_of_figure_3(chain: Chain, high: list[list[int]], low: list[list[int]]) -> None:
    steps = [step for plan in tile("chain", chain, 2) for step in sampled_steps(plan, (4, 4, 3))]
    assert step_numbers(steps, (2, 4, 4)).tolist() == [high, low]


def networks(chain: Chain) -> np.ndarray:
    """Tell which network generates each bit [bit, row, column] of a 4x4 image."""
    names = np.full((2, 4, 4), "", dtype=object)
    for stage, bits, pixel in generation_order(tile("chain", chain, 2), 4, 4):
        names[(slice(*bits), *pixel)] = stage
    return names


def test_networks_of_figure_3e() -> None:
    expected = np.full((2, 4, 4), "rest", dtype=object)
    expected[:, 0::2, 0::2] = "first"
    assert (networks(SIZE) == expected).all()


def test_networks_of_figure_3g() -> None:
    expected = np.full((2, 4, 4), "low", dtype=object)
    expected[0] = "rest_high"
    expected[0, 0::2, 0::2] = "first_high"
    assert (networks(MULTIDIMENSIONAL) == expected).all()


class Uninformed(Model):
    """A model that knows nothing, and notes for which sub-pixels it is asked."""

    def __init__(self, shape: StageShape) -> None:
        super().__init__()
        self.shape = shape
        self.position = -1
        self.asked: list[tuple[int, int, int, int]] = []

    def embed_target(self, levels: Tensor) -> Tensor:
        return levels[..., None].double()

    def embed_context(self, context: Context) -> None:
        self.position = int(context.position[0])

    def laws(self, embedded: Tensor, embedded_context: Tensor | None, context: Context) -> Categorical:
        return Noted(embedded.new_zeros(*embedded.shape[:-1], self.shape.num_levels), self)


class Noted(Categorical):
    def __init__(self, logits: Tensor, model: Uninformed) -> None:
        super().__init__(logits)
        self.model = model

    def select(self, row: int, column: int, channel: int) -> Categorical:
        self.model.asked.append((self.model.position, row, column, channel))
        return super().select(row, column, channel)


def sampled_steps(plan: StagePlan, shape: tuple[int, int, int]) -> list[Step]:
    """Sample a stage, and give the steps taken; the channels of a pixel are one step, in their order."""
    stage = Stage(plan, shape)
    size, channels = plan.scale_factor, shape[2]
    model = Uninformed(stage.shape)
    slices = torch.zeros(1, size, size, shape[0] // size, shape[1] // size, channels, dtype=torch.uint8)
    sample_stage(stage, SAMPLERS["cached"](model, choosing()), slices, [0], seed=1)
    assert [asked[3] for asked in model.asked] == list(range(channels)) * (len(model.asked) // channels)
    return [
        Step(plan.name, plan.bits, (row * size + position // size, column * size + position % size))
        for position, row, column, channel in model.asked
        if channel == 0
    ]
