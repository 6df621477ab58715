"""A gated layer merges its link into the vertical stack where that is less work, and computes the same."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from spn.layers import GatedLayer
from spn.layers.elementwise import gate

WIDTH, CHANNELS, CONDITION = 12, 3, 4
SIZES = (1, 3, 8, 16)


def gated_layer(first: bool, last: bool, conditions: tuple[int, int]) -> GatedLayer:
    torch.manual_seed(1)
    layer = GatedLayer(3 if first else WIDTH, WIDTH, conditions, CHANNELS, first, last, dropout=0.0)
    return layer.double()


def inputs_of(layer: GatedLayer, size: int) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None]]:
    generator = torch.Generator().manual_seed(2)

    def features(width: int) -> Tensor:
        return torch.randn(2, size, size, width, generator=generator, dtype=torch.float64, requires_grad=True)

    vertical, horizontal = (3, 3) if layer.first else (2 * WIDTH, WIDTH)
    conditions = (layer.vertical_condition, layer.horizontal_condition)
    of_vertical, of_horizontal = (None if each is None else features(CONDITION) for each in conditions)
    return features(vertical), features(horizontal), (of_vertical, of_horizontal)


def plain(
    layer: GatedLayer, vertical: Tensor, horizontal: Tensor, conditions: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """The layer as the paper draws it: the link after the vertical stack."""
    above = layer.vertical(layer.entering(vertical))
    if layer.vertical_condition:
        above = above + layer.vertical_condition(conditions[0])
    along = layer.horizontal(horizontal) + layer.link(above)
    if layer.horizontal_condition:
        along = along + layer.horizontal_condition(conditions[1])
    gated = layer.out(gate(along, CHANNELS))
    return above, gated if layer.first else horizontal + gated


LAYERS = list(product((True, False), (True, False), ((0, 0), (CONDITION, 0), (CONDITION, CONDITION))))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("first", "last", "conditions"), LAYERS)
def test_a_layer_computes_what_the_paper_draws(first: bool, last: bool, conditions: tuple[int, int], size: int) -> None:
    layer = gated_layer(first, last, conditions)
    vertical, horizontal, given = inputs_of(layer, size)
    above, along = layer(vertical, horizontal, given)
    expected_above, expected = plain(layer, vertical, horizontal, given)
    torch.testing.assert_close(along, expected)
    assert (above is None) == last
    leaves = [each for each in (vertical, horizontal, *given, *layer.parameters()) if each is not None]
    loss, expected_loss = along.square().sum(), expected.square().sum()
    if above is not None:
        torch.testing.assert_close(above, expected_above)
        loss, expected_loss = loss + above.cos().sum(), expected_loss + expected_above.cos().sum()
    for gradient, other in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected_loss, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize(("first", "last", "conditions"), LAYERS)
def test_merging_the_link_is_done_where_it_saves_work(first: bool, last: bool, conditions: tuple[int, int]) -> None:
    layer = gated_layer(first, last, conditions)
    saved = []
    for size in SIZES:
        inputs = inputs_of(layer, size)
        with FlopCounterMode(display=False) as ours:
            layer(*inputs)
        with FlopCounterMode(display=False) as papers:
            plain(layer, *inputs)
        saved.append(papers.get_total_flops() - ours.get_total_flops())
    assert min(saved) >= 0
    # Of two pixels nothing is saved, nor in the middle, where the vertical output of many features is needed too.
    assert saved[0] == 0
    assert (saved[-1] > 0) == (first or last)
