"""Sampling, beside the contract: the classes of images, what its progress says, and batches of every size."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from contract import build_problem, chains, labels_in_turn

from spn.generation import SAMPLERS, choosing, keyed_uniforms, sample_chain_stage, sample_stage
from spn.generation.sample import sample_labels
from spn.likelihood import Categorical
from spn.models import Context, Model
from spn.stages import Stage

PROBLEM = build_problem(chains(1, 2)["depth"], (2, 3, 1), 2)


def test_classes_are_taken_in_turn_or_one_for_all() -> None:
    assert labels_in_turn(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert labels_in_turn(3, 3, only=2).tolist() == [2, 2, 2]
    assert labels_in_turn(2, 3, only=0).tolist() == [0, 0]
    assert labels_in_turn(2, 3, only=2).dtype == torch.int64


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_first_batch_of_one_image_is_sampled_too(sampler: str) -> None:
    (stage, model), *_ = PROBLEM.parts
    together = sample_chain_stage(stage, model, None, 3, 1, 1.0, sampler=sampler)
    assert together.dtype == torch.uint8
    assert together.shape == (3, 2, 3, 1)
    # A stage of the high of two bits leaves the low ones 0.
    assert set(together.unique().tolist()) <= {0, 2}
    assert torch.equal(sample_chain_stage(stage, model, None, 3, 1, 1.0, batch_size=1, sampler=sampler), together)


def test_a_stage_that_is_told_of_classes_samples_by_them() -> None:
    (stage, model), *_ = build_problem(chains(1, 2)["depth"], (4, 4, 1), 2, num_classes=2).parts
    first, again, other = (
        sample_chain_stage(stage, model, None, 20, 1, 1.0, labels=sample_labels(20, 2, only)) for only in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_are_those_of_their_seed_and_stage_and_of_no_label_that_the_stage_is_not_told() -> None:
    (stage, model), *_ = PROBLEM.parts
    first, labelled, seeded = (
        sample_chain_stage(stage, model, None, 20, seed, 1.0, labels=labels)
        for seed, labels in ((1, None), (1, sample_labels(20, 2)), (2, None))
    )
    other = Stage(replace(stage.plan, name="other"), PROBLEM.shape)
    assert torch.equal(labelled, first)
    assert not torch.equal(seeded, first)
    assert not torch.equal(sample_chain_stage(other, model, None, 20, 1, 1.0), first)


def test_progress_is_counted_in_slices_and_named_by_the_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spn.generation.sample.SHOWN_AFTER", 0)
    stage, model = list(build_problem(chains(1, 2)["size"], (4, 4, 1), 2).parts)[1]
    sample_chain_stage(stage, model, torch.zeros(5, 4, 4, 1, dtype=torch.uint8), 5, 1, 1.0, batch_size=2)
    # Three slices in each of three batches.
    assert (
        re.search(
            r"^rest: 100%\|.*\| 9/9 \[.*[\d?](slice/s|s/slice)\]$", capsys.readouterr().err.split("\r")[-1].strip()
        )
        is not None
    )
    monkeypatch.setattr("spn.generation.sample.is_first", lambda: False)
    sample_chain_stage(stage, model, None, 1, 1, 1.0)
    assert capsys.readouterr().err == ""


class Skewed(Model):
    """A model of one law for every sub-pixel: levels 0 and 1 in shares of 1 to 3."""

    steps = None

    def __init__(self) -> None:
        super().__init__()
        self.shape = PROBLEM.stages[0].shape

    def embed_target(self, levels: torch.Tensor) -> torch.Tensor:
        """Return the levels."""
        return levels[..., None].double()

    def embed_context(self, context: Context) -> None:
        """Do nothing."""

    def laws(self, embedded: torch.Tensor, embedded_context: torch.Tensor | None, context: Context) -> Categorical:
        """Return that law."""
        return Categorical(torch.tensor([1.0, 3.0], dtype=torch.float64).log().expand(*embedded.shape[:-1], 2))


def test_passes_that_reach_no_sample_end() -> None:
    """As under a law that depends on its own level: 0 and 1 take turns for ever."""
    (stage, model), *_ = PROBLEM.parts
    turns = itertools.cycle((1, 0))
    draw = SAMPLERS["fixed_point"](model, lambda law, uniforms: torch.full(uniforms.shape, next(turns)))
    slices = torch.zeros(1, 1, 1, 2, 3, 1, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="expected a sample after 6 passes"):
        sample_stage(stage, draw, slices, range(1), 1)


@pytest.mark.parametrize("sampler", ["plain", "fixed_point"])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 1 / 4), (2.0, 1 / (1 + 3**0.5)), (0.5, 1 / 10)])
def test_a_temperature_divides_the_logarithms_of_the_probabilities(
    temperature: float, share: float, sampler: str
) -> None:
    stage = PROBLEM.stages[0]
    uniforms = keyed_uniforms(1, "high", (0, 0), range(50), (2, 3, 1))
    slices = torch.zeros(50, 1, 1, 2, 3, 1, dtype=torch.uint8)
    context = stage.context(slices, stage.positions((0, 0), 50))
    drawn = SAMPLERS[sampler](Skewed(), choosing(temperature))(context, uniforms)
    # Level 0 takes the uniforms below its share.
    assert torch.equal(drawn, (uniforms >= share).long())
