"""The `training` section of a stage."""

from typing import Annotated, Literal

from pydantic import Field

from spn.config.section import Count, CountOrZero, Section

Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Section):
    """AdamW with decoupled weight decay; without any it is Adam."""

    name: Literal["adamw"]
    """AdamW."""
    learning_rate: Rate
    """The step size after the warm-up."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """Decay of the averages of the gradient and of its square."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Share of a weight that is taken away at every step, times the learning rate."""


class RMSProp(Section):
    """RMSProp, which the paper is recalled to have used."""

    name: Literal["rmsprop"]
    """RMSProp."""
    learning_rate: Rate
    """The step size after the warm-up."""
    smoothing: Fraction = 0.95
    """Decay of the average of the gradient's square."""
    momentum: Fraction = 0.9
    """Share of the last step that is taken again."""


class Muon(Section):
    """Muon for the weights of linear maps and convolutions, Adam for the others; in none of the papers."""

    name: Literal["muon"]
    """Muon."""
    learning_rate: Rate
    """The step size of matrices after the warm-up, as the largest singular value of a step."""
    momentum: Fraction = 0.95
    """Share of the sum of gradients that is kept at every step."""
    others_learning_rate: Rate
    """The step size of Adam after the warm-up."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """Decay of Adam's averages of the gradient and of its square."""


class TrainingSection(Section):
    """How a stage is trained; the paper of SPN gives none of these numbers, all are ours.

    PixelCNN++ is published with Adam at 0.001 and betas (0.95, 0.9995), an exponential schedule, and averages of decay
    0.9995.
    """

    steps: Count
    """Batches that the stage is trained on."""
    batch_size: Count
    """Images of a batch, of each of which one slice is drawn."""
    optimiser: Annotated[AdamW | Muon | RMSProp, Field(discriminator="name")]
    """What makes a step of a gradient, by its `name`."""
    warmup_steps: CountOrZero
    """The learning rate rises linearly over so many steps."""
    schedule: Literal["constant", "cosine", "exponential"]
    """What follows the warm-up; cosine falls towards zero, which it would reach one step after the last."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.999995
    """By which an exponential schedule multiplies the learning rate at every step; the default is PixelCNN++'s."""
    clip_norm: Rate | None = None
    """Largest norm of the gradient."""
    ema_decay: Fraction
    """Polyak averaging of the weights; the averaged weights are what is evaluated and sampled."""
    validate_every: Count
    """Steps between two validations, over the validation split."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 trains under autocast; loss, weights and everything after training stay float32."""
