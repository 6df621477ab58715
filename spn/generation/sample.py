"""Sampling one stage of a chain, slice after slice."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from spn.console.bar import SHOWN_AFTER
from spn.distributed import collect, is_first, share
from spn.generation.samplers import SAMPLERS, Draw, choosing
from spn.generation.targets import fill_targets
from spn.generation.uniforms import keyed_uniforms
from spn.image import join_slices, split_slices
from spn.models import Context, Model
from spn.shapes import ByteSlices, Labels, Levels, Positions
from spn.stages import Stage

SAMPLING_BATCH_SIZE = 64
"""Default number of images per batch."""


def sample_stage(
    stage: Stage,
    draw: Draw,
    slices: ByteSlices,
    images: Sequence[int],
    seed: int,
    observe: Callable[[], object] = lambda: None,
    labels: Labels | None = None,
) -> ByteSlices:
    """Sample the cells of `stage`, given the `slices` that earlier stages sampled.

    `images` are the numbers of the images. A sample depends on its number, `seed` and, if the stage is
    class-conditional, its label, but not on the batch. This is exact in float64; in float32 the last bit of a logit
    depends on the batch size, and can in rare cases change a draw. `observe` is called after each slice. A stage that
    is not class-conditional ignores `labels`.
    """
    shape = (stage.shape.height, stage.shape.width, stage.shape.channels)

    def fill(position: tuple[int, int], positions: Positions, context: Context) -> Levels:
        uniforms = keyed_uniforms(seed, stage.plan.name, position, images, shape)
        levels = draw(context, uniforms.to(positions.device))
        observe()
        return levels

    return fill_targets(stage, slices, fill, labels)


def sample_chain_stage(
    stage: Stage,
    model: Model,
    before: UInt8[Tensor, "image height width channel"] | None,
    num_images: int,
    seed: int,
    temperature: float,
    batch_size: int = SAMPLING_BATCH_SIZE,
    sampler: str = "cached",
    labels: Labels | None = None,
    top_k: int | None = None,
) -> UInt8[Tensor, "image height width channel"]:
    """Sample one stage for images 0 .. num_images - 1, batch by batch; bits not yet sampled are 0.

    `before` has the images that earlier stages sampled; None for the first stage of a chain. `labels` are the images'
    classes or captions, the same for all stages of a chain; a stage that is not conditioned on them ignores them. Every
    `sampler` draws the same sample. Several processes (`spn.distributed`) share the batches, and all of them get all
    images.
    """
    small, scale_factor = stage.shape, stage.plan.scale_factor
    device = next(model.parameters()).device
    if before is None:
        shape = (num_images, small.height * scale_factor, small.width * scale_factor, small.channels)
        before = torch.zeros(shape, dtype=torch.uint8)
    draw = SAMPLERS[sampler](model, choosing(temperature, top_k))
    done = []
    batches = share(torch.arange(num_images).split(batch_size))
    with tqdm(
        total=len(batches) * len(stage.targets),
        desc=stage.plan.name,
        unit="slice",
        dynamic_ncols=True,
        delay=SHOWN_AFTER,
        disable=not is_first(),
    ) as bar:
        for images in batches:
            slices = split_slices(before[images], scale_factor).to(device)
            classes = None if labels is None else labels[images].to(device)
            sampled = sample_stage(stage, draw, slices, images.tolist(), seed, bar.update, classes)
            done.append(join_slices(sampled).cpu())
    return torch.cat(collect(done))


def sample_labels(num_images: int, num_classes: int, only: int | Sequence[int] | None = None) -> Labels | None:
    """Choose the classes of a chain's images: `only` for all of them, or else i mod `num_classes` for image i (ours).

    If `only` is a caption, it is that of all of them. Returns None for a chain that is conditioned on neither.
    """
    if not num_classes:
        return None
    return torch.arange(num_images) % num_classes if only is None else torch.tensor([only] * num_images)
