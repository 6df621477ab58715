"""Slices, bits and windows: exact integer maths."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spn.image import (
    causal_offsets,
    gather_window,
    join_slices,
    split_bits,
    split_slices,
    window_offsets,
)

AS_TORCH: Callable[[np.ndarray], Tensor] = torch.from_numpy
FORMS = pytest.mark.parametrize("form", [np.asarray, AS_TORCH], ids=["numpy", "torch"])


def noise(seed: int, shape: tuple[int, ...], bits: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(1 << bits, size=shape, dtype=np.uint8)


@FORMS
@given(
    scale_factor=st.integers(1, 5),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    lead=st.lists(st.integers(0, 3), max_size=2),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_slices_are_a_bijection(
    form: Callable[[np.ndarray], Tensor],
    scale_factor: int,
    size: tuple[int, int],
    lead: list[int],
    channels: int,
    seed: int,
) -> None:
    height, width = size
    images = form(noise(seed, (*lead, scale_factor * height, scale_factor * width, channels)))
    slices = split_slices(images, scale_factor)
    assert slices.dtype == images.dtype
    assert tuple(slices.shape) == (*lead, scale_factor, scale_factor, height, width, channels)
    for m in range(scale_factor):
        for n in range(scale_factor):
            assert (slices[..., m, n, :, :, :] == images[..., m::scale_factor, n::scale_factor, :]).all()
    assert (join_slices(slices) == images).all()


@st.composite
def cut_bits(draw: st.DrawFn) -> tuple[int, ...]:
    depth = draw(st.integers(1, 8))
    return (0, *sorted(draw(st.sets(st.integers(1, depth - 1)) if depth > 1 else st.just(set()))), depth)


@FORMS
@given(cuts=cut_bits())
def test_a_range_of_bits_is_a_number_of_its_own(form: Callable[[np.ndarray], Tensor], cuts: tuple[int, ...]) -> None:
    depth = cuts[-1]
    levels = form(np.arange(1 << depth).astype(np.uint8))
    parts = split_bits(levels, cuts)
    for part, (start, end) in zip(parts, pairwise(cuts), strict=True):
        assert part.dtype == levels.dtype
        words = [format(level, f"0{depth}b")[start:end] for level in range(1 << depth)]
        assert part.tolist() == [int(word, 2) for word in words]


@pytest.mark.parametrize(("scale_factor", "num_causal"), [(1, 0), (2, 4), (3, 12), (4, 24), (8, 112)])
def test_number_of_cells(scale_factor: int, num_causal: int) -> None:
    causal, whole = causal_offsets(scale_factor), window_offsets(scale_factor)
    assert len(set(causal)) == len(causal) == num_causal
    assert len(set(whole)) == len(whole) == (2 * scale_factor - 1) ** 2
    assert set(whole) == set(causal) | {(0, 0)} | {(-di, -dj) for di, dj in causal}
    assert whole == sorted(whole)
    assert causal == sorted(causal)


def test_the_causal_window_is_the_paper_s() -> None:
    above = [(di, dj) for di in range(-3, 0) for dj in range(-3, 4)]
    assert causal_offsets(4) == above + [(0, dj) for dj in range(-3, 0)]


@pytest.mark.parametrize("scale_factor", [1, 2, 3, 4])
def test_the_window_is_cut_out_of_the_image_at_full_resolution(scale_factor: int) -> None:
    height, width = 2 * scale_factor, 3 * scale_factor
    images = noise(scale_factor, (2, height, width, 3))
    slices = torch.from_numpy(split_slices(images, scale_factor))
    visible = torch.full((scale_factor, scale_factor), 0xFF)
    offsets = window_offsets(scale_factor)
    for m in range(scale_factor):
        for n in range(scale_factor):
            cells, present = gather_window(slices, visible, torch.tensor([[m, n], [m, n]]), torch.tensor(offsets))
            for cell, (di, dj) in enumerate(offsets):
                in_grid = 0 <= m + di < scale_factor and 0 <= n + dj < scale_factor
                assert present[:, cell].tolist() == [in_grid, in_grid]
                for i, j in np.ndindex(2, 3):
                    row, column = i * scale_factor + m + di, j * scale_factor + n + dj
                    expected = images[:, row, column].tolist() if in_grid else np.zeros((2, 3)).tolist()
                    assert cells[:, cell, i, j].tolist() == expected


def test_cells_inside_the_image_but_outside_the_grid_are_empty() -> None:
    # Left of slice (0, 0) there are pixels of the image for every column but the first; they are not in its window.
    slices = torch.full((1, 2, 2, 3, 3, 1), 7, dtype=torch.uint8)
    visible, offsets = torch.full((2, 2), 0xFF), torch.tensor(causal_offsets(2))
    cells, present = gather_window(slices, visible, torch.tensor([[0, 0]]), offsets)
    assert not present.any()
    assert not cells.any()


@given(st.integers(1, 5))
def test_later_slices_are_not_in_the_causal_window(scale_factor: int) -> None:
    grid = [(m, n) for m in range(scale_factor) for n in range(scale_factor)]
    numbers = torch.arange(1, len(grid) + 1, dtype=torch.uint8).view(1, scale_factor, scale_factor, 1, 1, 1)
    visible = torch.full((scale_factor, scale_factor), 0xFF)
    offsets = torch.tensor(causal_offsets(scale_factor), dtype=torch.long).reshape(-1, 2)  # none where S = 1
    for number, position in enumerate(grid, start=1):
        cells, present = gather_window(numbers, visible, torch.tensor([position]), offsets)
        # All slices before it, in order, once each.
        assert cells[present].flatten().tolist() == list(range(1, number))


def test_positions_may_differ_within_a_batch() -> None:
    slices = torch.from_numpy(noise(0, (4, 2, 2, 2, 2, 1)))
    visible = torch.tensor([[0xF0, 0xFF], [0x0F, 0]])
    positions = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    offsets = torch.tensor(window_offsets(2))
    cells, present = gather_window(slices, visible, positions, offsets)
    for image in range(4):
        alone = gather_window(slices[image : image + 1], visible, positions[image : image + 1], offsets)
        assert torch.equal(alone[0][0], cells[image])
        assert torch.equal(alone[1][0], present[image])


def test_only_visible_bits_are_shown() -> None:
    slices = torch.full((1, 2, 2, 1, 1, 1), 0b10110101, dtype=torch.uint8)
    visible = torch.tensor([[0b11100000, 0], [0b00011111, 0]])
    offsets = causal_offsets(2)
    cells, present = gather_window(slices, visible, torch.tensor([[1, 1]]), torch.tensor(offsets))
    assert cells.dtype == slices.dtype
    shown = {offset: cells[0, offsets.index(offset)].item() for offset in offsets}
    assert shown == {(-1, -1): 0b10100000, (-1, 0): 0, (-1, 1): 0, (0, -1): 0b00010101}
    assert [offset for offset, there in zip(offsets, present[0].tolist(), strict=True) if there] == [(-1, -1), (0, -1)]
