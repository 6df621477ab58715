"""A probe: what a chain says of two fixed pictures, in float64, to tell whether code and weights still mean the same.

The pictures are made up, because those of a data set may not be free to pass on: one is noise, the other a slope with
noise, different in every direction and channel.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from spn.api.arrays import Images
from spn.config import InputError
from spn.data.in_memory import ImagesInMemory
from spn.evaluation.evaluate import stage_nats
from spn.first_stages import VqAutoencoder
from spn.generation import build_steps, keyed_uniforms, walk
from spn.image import split_slices
from spn.layers.intensity import scale_levels
from spn.likelihood import Law
from spn.models import Model
from spn.shapes import Labels
from spn.stages import Stage

NUM_PICTURES = 2
NUM_ROWS = 2
"""Rows of a slice that are walked."""
TOLERANCE = 1e-8
"""Maximum relative difference; float64 on another machine differs by about 1e-13."""
CPU = torch.device("cpu")

Network = TypeVar("Network", bound=nn.Module)


class Part(NamedTuple):
    """A trained stage of a chain; to be probed, on the CPU."""

    stage: Stage
    network: Model


def probe_pictures(shape: tuple[int, int, int], bits: int) -> Images:
    """Make the two pictures, as levels [2, H, W, C]."""
    noise = keyed_uniforms(0, "probe", (0, 0), range(NUM_PICTURES), shape)
    rows, columns, channels = (torch.arange(size, dtype=torch.float64) / size for size in shape)
    slope = 0.5 * rows[:, None, None] + 0.3 * columns[:, None] + 0.1 * channels + 0.1 * noise[1]
    return (torch.stack([noise[0], slope]) * (1 << bits)).to(torch.uint8)


def probe_stage(part: Part, pictures: Images, labels: Labels | None) -> list[float]:
    """Return the nats of each picture under a stage; for a bound, with the noise of its seed."""
    stage, network = part.stage, exact(part.network)
    return [float(nats) for nats in stage_nats(stage, network, ImagesInMemory(pictures, labels), "test", CPU)]


def probe_first_stage(model: VqAutoencoder, pictures: Images) -> list[float]:
    """Return sums over what the encoder makes of each picture, then over what the decoder makes of its codes."""
    model = exact(model)
    with torch.inference_mode():
        encoded = model.encoder(scale_levels(pictures.long(), model.num_levels, torch.float64))
        decoded = model.decoder(model.quantiser.lookup(model.encode(pictures.long())))
    # Weighted by place, so that a permutation shows.
    weighted = (
        each.flatten(1) @ torch.linspace(1, 2, each[0].numel(), dtype=each.dtype) for each in (encoded, decoded)
    )
    return [float(each) for sums in weighted for each in sums]


def check_probe(name: str, expected: Sequence[float], actual: Sequence[float]) -> None:
    """Raise InputError, naming the stage and the difference, unless a probe is what it was."""
    _compare(f"{name}: code and weights no longer mean the same", expected, actual)


def check_walk(name: str, part: Part, pictures: Images, labels: Labels | None) -> None:
    """Raise InputError unless the cached walk gives the laws of a whole pass, over the first rows of a first slice."""
    stage, network = part.stage, exact(part.network)
    with torch.inference_mode():
        slices = split_slices(pictures, stage.plan.scale_factor)
        position = stage.positions(stage.targets[0], len(slices))
        context = stage.context(slices, position, labels if stage.plan.num_classes else None)
        target = stage.target(slices, position)
        whole = _log_probs(network(target, context), target)[:, :NUM_ROWS]
        walked: list[Tensor] = []

        def force(law: Law, levels: Tensor) -> Tensor:
            walked.append(_log_probs(law, levels))
            return levels

        walk(build_steps(network, len(slices)), context, target[:, :NUM_ROWS], force)
    _compare(f"{name}: cached sampling and a whole pass disagree", _sums(whole), _sums(torch.stack(walked, dim=1)))


def exact(network: Network) -> Network:
    """Return a copy of a network in float64."""
    return copy.deepcopy(network).double()


def _log_probs(law: Law, levels: Int[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
    """Return log-probabilities, where `Law.log_prob` may estimate a bound by noise."""
    return law.probs().gather(-1, levels[..., None])[..., 0].log()


def _sums(values: Tensor) -> list[float]:
    return [float(each) for each in values.flatten(1).sum(1)]


def _compare(what: str, expected: Sequence[float], actual: Sequence[float]) -> None:
    for number, (was, now) in enumerate(zip(expected, actual, strict=True)):
        # Not `>`, so that NaN is refused.
        if not abs(now - was) <= TOLERANCE * (1 + abs(was)):
            raise InputError(
                f"{what}: expected {was!r} for probe picture {number % NUM_PICTURES}, got {now!r} ({now - was:+.3g})"
            )
