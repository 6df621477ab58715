"""Random problems for checks: models with random weights in float64, random contexts and targets."""

import torch
from torch import Tensor

from spn.config import ModelSection
from spn.models import Context, Model, StageShape, build_model


def random_problem(
    section: ModelSection, shape: StageShape, count: int, generator: torch.Generator
) -> tuple[Model, Context, Tensor]:
    """Build a model with random weights in float64, and `count` contexts and targets."""
    targets = (count, shape.height, shape.width, shape.channels)
    model = random_model(section, shape, generator)
    levels = torch.randint(shape.num_levels, targets, generator=generator)
    return model, random_context(shape, count, generator), levels


def random_model(section: ModelSection, shape: StageShape, generator: torch.Generator) -> Model:
    """Build a model with random weights in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
        model = build_model(section, shape).double().eval()
        # All weights are random, because a zero from the initialisation would hide a dependence, and scaled, because a
        # saturated gate would hide one, too.
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    return model


def random_context(shape: StageShape, batch: int, generator: torch.Generator) -> Context:
    """Draw a context with all cells present."""
    size = (batch, shape.num_cells, shape.height, shape.width, shape.channels)
    return Context(
        cells=torch.randint(shape.context_levels, size, generator=generator),
        present=torch.ones(size[:2], dtype=torch.bool),
        position=torch.randint(shape.num_positions, (batch,), generator=generator),
        high=_random_levels(shape, batch, shape.high_levels, generator) if shape.high_levels > 1 else None,
        label=torch.randint(shape.num_classes, (batch,), generator=generator) if shape.num_classes else None,
        caption=(
            torch.randint(shape.num_words, (batch, shape.caption_length), generator=generator)
            if shape.num_words
            else None
        ),
        noised=None if shape.kept is None else _random_levels(shape, batch, shape.num_levels, generator),
    )


def _random_levels(shape: StageShape, batch: int, num_levels: int, generator: torch.Generator) -> Tensor:
    size = (batch, shape.height, shape.width, shape.channels)
    return torch.randint(num_levels, size, generator=generator)
