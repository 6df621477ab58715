"""Chains as tilings: every cell is generated exactly once, or the error names one that is not."""

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from contract import Chain, Part, check_contexts, check_later_bits_are_hidden, check_round_trip, resolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from order import generation_order, step_numbers

from spn.config import InputError, tile

DEPTH: Chain = {"high": Part(2, "all", (0, 1)), "low": Part(2, "all", (1, 2))}


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


@pytest.mark.slow
@given(tilings())
@settings(max_examples=20)
def test_contexts_of_any_tiling(tiling: Tiling) -> None:
    assume(tiling.side <= 6)
    problem = resolve(tiling.chain, (tiling.side, 2 * tiling.side, 1), tiling.bits)
    check_contexts(problem)
    check_later_bits_are_hidden(problem)
    check_round_trip(problem)


def cell_of(message: str) -> tuple[int, int, int, int]:
    """Read row, column, grid and bit out of an error."""
    found = re.search(r"slice \((\d+),(\d+)\) of (\d+)x\3, bit (\d+)", message)
    assert found, message
    row, column, side, bit = map(int, found.groups())
    return row, column, side, bit


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
        (
            {"high": Part(1, "all", (0, 1)), "first": Part(2, "first", (1, 2))},
            "chains.mine.stages: the cell slice (0,1) of 2x2, bit 1 is left out; the stages (high, first) must cover "
            "every slice and all 2 bits",
        ),
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
    assert numbers[1].tolist() == np.arange(17, 33).reshape(4, 4).tolist()


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
