"""How `spn check` finds contexts that show bits which are not yet generated."""

import functools
import itertools
from typing import Any

import torch
from contract import chains, resolve
from torch import Tensor

from spn.config import StagePlan
from spn.evaluation import check
from spn.models import Context
from spn.stages import Stage

CHAINS = chains(1, 2)


class Open(Stage):
    """A stage that shows all slices, and notes which of their bits it is shown otherwise, and which labels."""

    def __init__(self, plan: StagePlan, shape: tuple[int, int, int]) -> None:
        super().__init__(plan, shape)
        self.shown, self.labels = list[Tensor](), list[Tensor | None]()

    def context(self, slices: Tensor, position: Tensor, labels: Tensor | None = None) -> Context:
        """Show everything."""
        self.shown.append(slices)
        self.labels.append(labels)
        return Context(slices.flatten(1, 2).long(), torch.ones(len(slices), 4, dtype=torch.bool), position[:, 0])

    @property
    def changed_bits(self) -> list[list[list[int]]]:
        """Of every target, the bits of each slice that differ in any image at any pixel."""
        differ = [(one ^ other).flatten(3).unbind(-1) for one, other in itertools.pairwise(self.shown)][::2]
        bits = [torch.stack(each, dim=-1).movedim(0, -1).flatten(2) for each in differ]
        return [[[functools.reduce(int.__or__, cell) for cell in row] for row in each.tolist()] for each in bits]


def test_every_bit_that_is_not_yet_generated_is_changed_and_no_other() -> None:
    problem = resolve(CHAINS["multidimensional"], (8, 8, 1), 2, num_classes=3)
    stage = Open(problem.plans[1], problem.shape)
    slices = torch.randint(4, (3, 2, 2, 4, 4, 1), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    leaking = check.hidden_bits_leak(stage, slices, torch.Generator().manual_seed(1))
    assert leaking == [(0, 1), (1, 0), (1, 1)]
    # The high bits, 2, of the first slice are known beforehand, and then those of one slice after another.
    assert stage.changed_bits == [[[1, 3], [3, 3]], [[1, 1], [3, 3]], [[1, 1], [1, 3]]]
    assert all(labels is not None and labels.dtype == torch.int64 and len(labels) == 3 for labels in stage.labels)
    assert stage.labels


def test_contexts_that_differ_in_one_thing_are_told_apart() -> None:
    def context(**changes: Any) -> Context:
        parts: dict[str, Any] = {
            "cells": torch.zeros(1, 2, 1, 1, 1, dtype=torch.long),
            "present": torch.ones(1, 2, dtype=torch.bool),
            "position": torch.zeros(1, dtype=torch.long),
        }
        return Context(**(parts | changes))

    high, label = torch.zeros(1, 1, 1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    assert check.same_context(context(), context())
    assert check.same_context(context(high=high, label=label), context(high=high.clone(), label=label.clone()))
    others = (
        context(cells=torch.tensor([0, 1]).view(1, 2, 1, 1, 1)),
        context(present=torch.tensor([[True, False]])),
        context(position=torch.ones(1, dtype=torch.long)),
        context(high=high),
        context(label=label),
    )
    for other in others:
        assert not check.same_context(context(), other)
        assert not check.same_context(other, context())
