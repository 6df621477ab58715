"""The `training` section of a stage."""

from typing import Annotated, Literal

from pydantic import Field

from spn.config.section import Count, CountOrZero, Section

Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Section):
    """AdamW with decoupled weight decay; with a decay of 0 it is Adam."""

    name: Literal["adamw"]
    """AdamW."""
    learning_rate: Rate
    """The step size after the warm-up."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """Decay rates of the averages of the gradient and of its square."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Every step multiplies weights by 1 - learning_rate * weight_decay."""


class RMSProp(Section):
    """RMSProp, which the paper is recalled to have used."""

    name: Literal["rmsprop"]
    """RMSProp."""
    learning_rate: Rate
    """The step size after the warm-up."""
    smoothing: Fraction = 0.95
    """Decay rate of the average of the gradient's square."""
    momentum: Fraction = 0.9
    """Momentum: the fraction of the last update added to the next."""


class Muon(Section):
    """Muon for the weights of linear maps and convolutions, Adam for all other parameters; in none of the papers."""

    name: Literal["muon"]
    """Muon."""
    learning_rate: Rate
    """Step size of matrices after the warm-up: about the singular values of a step."""
    momentum: Fraction = 0.95
    """Fraction of the sum of gradients kept at every step."""
    others_learning_rate: Rate
    """Step size of Adam after the warm-up."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """Decay rates of Adam's averages of the gradient and of its square."""


class TrainingSection(Section):
    """How a stage is trained. The SPN paper states none of these numbers; all are ours.

    PixelCNN++ was published with Adam at 0.001 and betas (0.95, 0.9995), an exponential schedule, and an EMA decay of
    0.9995.
    """

    steps: Count
    """Number of training steps, one batch each."""
    batch_size: Count
    """Images per batch; one slice is drawn from each."""
    optimiser: Annotated[AdamW | Muon | RMSProp, Field(discriminator="name")]
    """The optimiser, by its `name`."""
    warmup_steps: CountOrZero
    """Number of steps over which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine", "exponential"]
    """Learning rate after the warm-up; `cosine` would reach zero one step after the last."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.999995
    """Factor on the learning rate at every step of an exponential schedule; the default is PixelCNN++'s."""
    clip_norm: Rate | None = None
    """Gradients with a larger norm are scaled down to it."""
    ema_decay: Fraction
    """Decay of the EMA of the weights (Polyak averaging), which are evaluated and sampled."""
    validate_every: Count
    """Steps between two validations over the whole validation split."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 trains under autocast; loss, weights, evaluation and sampling stay float32."""
