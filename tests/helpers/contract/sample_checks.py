"""What sampling promises: draws from the very laws that scoring gives, whatever the batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from contract.model_checks import ONLY, chain_probabilities
from contract.problem import Check, Problem
from spn.generation import SAMPLERS, build_steps, choosing, sample_chain_stage, sample_stage, samplers
from spn.generation.sample import sample_labels
from spn.image import join_slices, split_slices
from spn.likelihood import Law
from spn.models import Context, Model, Steps

SEED = 7
"""Of samples."""


def labels_in_turn(num_images: int, num_classes: int, only: int | None = None) -> Tensor:
    """Return the labels of samples of a stage that is told of classes."""
    labels = sample_labels(num_images, num_classes, only)
    assert labels is not None
    return labels


def sample(
    problem: Problem,
    num_images: int,
    batch_size: int,
    temperature: float = 1.0,
    sampler: str = "cached",
    labels: Tensor | None = None,
) -> Tensor:
    """Sample a whole chain, of all classes in turn unless there are `labels`."""
    *_, images = sample_stages(problem, num_images, batch_size, temperature, sampler, labels)
    return images


def sample_stages(
    problem: Problem,
    num_images: int,
    batch_size: int,
    temperature: float = 1.0,
    sampler: str = "cached",
    labels: Tensor | None = None,
) -> Iterator[Tensor]:
    """Sample a chain stage by stage; yield the images after each."""
    images = None
    labels = problem.labels(num_images) if labels is None else labels
    for stage, model in problem.parts:
        images = sample_chain_stage(stage, model, images, num_images, SEED, temperature, batch_size, sampler, labels)
        yield images


def check_batches(problem: Problem) -> None:
    """A sample is a function of its number alone: not of its batch's size, nor of its place in the batch."""
    together = sample(problem, num_images=3, batch_size=3)
    numbers, labels = [2, 0], problem.labels(3)
    images = torch.zeros_like(together[numbers])
    for stage, model in problem.parts:
        slices = split_slices(images, stage.plan.scale_factor)
        draw, classes = SAMPLERS["cached"](model, choosing()), None if labels is None else labels[numbers]
        images = join_slices(sample_stage(stage, draw, slices, numbers, SEED, labels=classes))
    assert torch.equal(images, together[numbers])


def check_samples_replay(problem: Problem) -> None:
    """The laws that a sample was drawn from are those that scoring the finished sample gives."""
    all_offered = {id(model): list[Tensor]() for model in problem.models}

    def watched(model: Model, batch: int) -> Steps:
        return _WatchedSteps(build_steps(model, batch), all_offered[id(model)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "build_steps", watched)
        after = list(sample_stages(problem, num_images=2, batch_size=2))
    before = [torch.zeros_like(after[0]), *after]
    for number, (stage, model) in enumerate(problem.parts):
        offered = iter(all_offered[id(model)])
        # The noise of a scale is overwritten by the next; all other cells stay.
        is_scale = stage.plan.noise is not None
        target_of, seen = (
            split_slices(each, stage.plan.scale_factor)
            for each in ((after[number], before[number]) if is_scale else (after[-1], after[-1]))
        )
        for position in stage.targets:
            positions = stage.positions(position, 2)
            target = stage.target(target_of, positions)
            context = stage.context(seen, positions, problem.classes_of(stage, problem.labels(2)))
            laws = model(target, context).probs().flatten(1, 3)
            for law in laws.unbind(1):
                torch.testing.assert_close(next(offered), law, atol=1e-12, rtol=0)
        assert not list(offered)


def check_samplers_agree(problem: Problem) -> None:
    """Every way to sample gives the same sample."""
    cached = sample(problem, num_images=2, batch_size=2)
    for sampler in SAMPLERS.keys() - {"cached"}:
        assert torch.equal(sample(problem, num_images=2, batch_size=2, sampler=sampler), cached)


def check_frequencies(problem: Problem) -> None:
    """Samples are as frequent as their probabilities say (chi-squared; for images that can be enumerated)."""
    images, probabilities = chain_probabilities(problem)
    count = min(4000, 30 * len(images))
    labels = torch.full((count,), ONLY) if problem.labels(1) is not None else None
    samples = sample(problem, num_images=count, batch_size=1000, labels=labels).flatten(1).long()
    places = (1 << problem.bits) ** torch.arange(samples.shape[1] - 1, -1, -1)
    codes = (samples * places).sum(1)
    assert torch.equal(images.flatten(1)[codes].long(), samples)
    counts, expected = torch.bincount(codes, minlength=len(images)), len(samples) * probabilities
    freedom = len(images) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


class _WatchedSteps(Steps):
    """Steps that note the probabilities of every law they offer."""

    def __init__(self, steps: Steps, offered: list[Tensor]) -> None:
        self.steps, self.offered = steps, offered

    def begin(self, context: Context) -> None:
        self.steps.begin(context)

    def start_row(self, row: int) -> None:
        self.steps.start_row(row)

    def start_pixel(self, column: int) -> None:
        self.steps.start_pixel(column)

    def law(self, channel: int) -> Law:
        law = self.steps.law(channel)
        self.offered.append(law.probs())
        return law

    def observe(self, channel: int, levels: Tensor) -> None:
        self.steps.observe(channel, levels)


SAMPLE_CHECKS: tuple[Check, ...] = (check_batches, check_samples_replay, check_samplers_agree)
