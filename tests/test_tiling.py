"""Chains as tilings: the orders of the paper's Fig. 3, and that every cell is generated exactly once."""

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from contract import Chain, Part, Problem, check_contexts, check_later_bits_are_hidden, check_round_trip
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from spn.config import InputError, StagePlan, tile
from spn.generation import sample_stage
from spn.image.order import Step, generation_order, step_numbers
from spn.likelihood import Categorical
from spn.models import Context, Model, Signature
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
    assert step_numbers(steps, (2, 4, 4)).tolist() == [high, low]


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

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.signature = signature
        self.position = -1
        self.asked: list[tuple[int, int, int, int]] = []

    def embed_target(self, levels: Tensor) -> Tensor:
        return levels[..., None].double()

    def embed_context(self, context: Context) -> None:
        self.position = int(context.position[0])

    def laws(self, embedded: Tensor, features: Tensor | None) -> Categorical:
        return Noted(embedded.new_zeros(*embedded.shape[:-1], self.signature.num_levels), self)


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
    model = Uninformed(stage.signature)
    slices = torch.zeros(1, size, size, shape[0] // size, shape[1] // size, channels, dtype=torch.uint8)
    sample_stage(stage, model, slices, [0], seed=1)
    assert [asked[3] for asked in model.asked] == list(range(channels)) * (len(model.asked) // channels)
    return [
        Step(plan.name, plan.bits, (row * size + position // size, column * size + position % size))
        for position, row, column, channel in model.asked
        if channel == 0
    ]


@dataclass(frozen=True)
class Tiling:
    """A valid chain over images of `bits` bits, and the side of an image that all its scale factors divide."""

    bits: int
    chain: Chain = field(hash=False)

    @property
    def side(self) -> int:
        return math.lcm(*(part.scale_factor for part in self.chain.values()))


@st.composite
def cuts(draw: st.DrawFn, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a range of bits at random places."""
    inner = draw(st.sets(st.integers(start + 1, end - 1))) if end - start > 1 else set()
    marks = [start, *sorted(inner), end]
    return list(pairwise(marks))


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    """Cut the bits in layers, each of a scale factor of its own, whole or in first and rest; in any order."""
    bits = draw(st.integers(1, 8))
    parts: list[Part] = []
    for layer in draw(cuts(0, bits)):
        scale_factor = draw(st.integers(1, 4))
        if scale_factor > 1 and draw(st.booleans()):
            parts += [Part(scale_factor, "first", part) for part in draw(cuts(*layer))]
            parts += [Part(scale_factor, "rest", part) for part in draw(cuts(*layer))]
        else:
            parts.append(Part(scale_factor, "all", layer))
    ordered = draw(st.permutations(parts))
    return Tiling(bits, {f"stage_{index}": part for index, part in enumerate(ordered)})


@given(tilings())
def test_a_tiling_generates_every_bit_exactly_once(tiling: Tiling) -> None:
    steps = generation_order(tile("chain", tiling.chain, tiling.bits), tiling.side, tiling.side)
    numbers = step_numbers(steps, (tiling.bits, tiling.side, tiling.side))
    assert (numbers > 0).all()
    assert sum(end - start for _, (start, end), _ in steps) == numbers.size


@given(tilings())
@settings(max_examples=20)
def test_contexts_of_any_tiling(tiling: Tiling) -> None:
    assume(tiling.side <= 6)
    problem = Problem(
        (tiling.side, 2 * tiling.side, 1), tiling.bits, tile("chain", tiling.chain, tiling.bits), models=()
    )
    check_contexts(problem)
    check_later_bits_are_hidden(problem)
    check_round_trip(problem)


def cell_of(message: str) -> tuple[int, int, int, int]:
    """Read row, column, grid and bit out of an error."""
    found = re.search(r"slice \((\d+),(\d+)\) of (\d+)x\3, bit (\d+)", message)
    assert found, message
    return tuple(map(int, found.groups()))


def generates(part: Part, row: int, column: int, bit: int) -> bool:
    is_first = row % part.scale_factor == 0 and column % part.scale_factor == 0
    return {"all": True, "first": is_first, "rest": not is_first}[part.slices] and bit in range(*part.bits)


@given(tilings(), st.data())
def test_a_stage_left_out_is_named_by_its_cell(tiling: Tiling, data: st.DataObject) -> None:
    assume(len(tiling.chain) > 1)
    gone = data.draw(st.sampled_from(sorted(tiling.chain)))
    chain = {name: part for name, part in tiling.chain.items() if name != gone}
    with pytest.raises(InputError, match=r"^chains\.mine\.stages: .* is left out") as caught:
        tile("mine", chain, tiling.bits)
    row, column, grid, bit = cell_of(str(caught.value))
    assert grid == math.lcm(*(part.scale_factor for part in chain.values()))
    # Under the coarser grid that remains, the cell may hold more than what is gone, but some of it is.
    assert any(
        generates(tiling.chain[gone], row + i * grid, column + j * grid, bit)
        for i in range(tiling.side // grid)
        for j in range(tiling.side // grid)
    )


@given(tilings(), st.data())
def test_a_stage_too_many_is_named_by_its_cell(tiling: Tiling, data: st.DataObject) -> None:
    twice = data.draw(st.sampled_from(sorted(tiling.chain)))
    place = data.draw(st.integers(0, len(tiling.chain)))
    start, end = data.draw(cuts(*tiling.chain[twice].bits).map(lambda parts: parts[0]))
    items = list(tiling.chain.items())
    extra = Part(tiling.chain[twice].scale_factor, tiling.chain[twice].slices, (start, end))
    chain = dict([*items[:place], ("extra", extra), *items[place:]])
    with pytest.raises(InputError, match=r"^chains\.mine\.stages: .* is covered twice") as caught:
        tile("mine", chain, tiling.bits)
    row, column, _, bit = cell_of(str(caught.value))
    assert generates(extra, row, column, bit)
    assert {twice, "extra"} == set(str(caught.value).split(" covered twice, by ")[1].split(" and by "))


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({"high": Part(1, "all", (0, 1))}, "slice (0,0) of 1x1, bit 1 is left out"),
        ({"first": Part(2, "first", (0, 2))}, "slice (0,1) of 2x2, bit 0 is left out"),
        ({"rest": Part(2, "rest", (0, 2))}, "slice (0,0) of 2x2, bit 0 is left out"),
        (
            {"first": Part(2, "first", (0, 2)), "rest": Part(4, "rest", (0, 2))},
            "slice (0,2) of 4x4, bit 0 is covered twice, by first and by rest",
        ),
        (
            {"first": Part(4, "first", (0, 2)), "rest": Part(2, "rest", (0, 2))},
            "slice (0,2) of 4x4, bit 0 is left out",
        ),
        (
            {"raster": Part(1, "all", (0, 2)), "rest": Part(2, "rest", (1, 2))},
            "slice (0,1) of 2x2, bit 1 is covered twice, by raster and by rest",
        ),
    ],
)
def test_the_cell_is_named(chain: Chain, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        tile("mine", chain, 2)


def test_scale_factors_may_be_mixed() -> None:
    chain = {
        "first": Part(2, "first", (0, 1)),
        "rest": Part(2, "rest", (0, 1)),
        "middle": Part(1, "all", (1, 2)),
        "low": Part(4, "all", (2, 3)),
    }
    first, rest, middle, low = tile("chain", chain, 3)
    assert first.known == ((0, 0), (0, 0))
    assert rest.known == ((0b100, 0), (0, 0))
    assert middle.known == ((0b100,),)
    assert low.known == ((0b110,) * 4,) * 4
    numbers = step_numbers(generation_order((first, rest, middle, low), 4, 4), (3, 4, 4))
    assert numbers[1].tolist() == (16 + np.array(FIGURE_A)).tolist()


def test_a_slice_of_which_only_some_pixels_are_known_counts_as_unknown() -> None:
    chain = {
        "first": Part(2, "first", (0, 1)),
        "low": Part(1, "all", (1, 2)),
        "rest": Part(2, "rest", (0, 1)),
    }
    _, low, rest = tile("chain", chain, 2)
    assert low.known == ((0,),)
    assert rest.known == ((0b11, 0b01), (0b01, 0b01))


def test_a_stage_of_two_chains_is_the_same_where_it_follows_the_same_cells() -> None:
    two, three = tile("depth", DEPTH, 2), tile("other", {"high": DEPTH["high"], "low_bits": DEPTH["low"]}, 2)
    assert two[0] == three[0]
    backwards = tile("backwards", {"low": DEPTH["low"], "high": DEPTH["high"]}, 2)
    assert backwards[1].name == two[0].name
    assert backwards[1] != two[0]
