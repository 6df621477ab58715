"""Fixed-point decoding against a full forward pass per sub-pixel, with networks trained on photographs.

The number of passes depends on how far laws actually depend on earlier pixels, so the networks are trained briefly on
such images.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from benchmarks.measure import interleaved, spread
from benchmarks.reference import TINY, Part, Scale, build
from benchmarks.sampling import first_pixels, uniforms_of
from benchmarks.table import Row, faster
from spn.config import AdamW, SpnSection, tile
from spn.generation import SAMPLERS, choosing
from spn.image import split_slices
from spn.likelihood import Law, bits_per_dim
from spn.models import Context, Model
from spn.stages import Stage
from spn.training.optimiser import build_optimiser

GROUP = "Fixed-point decoding"
SECTION = SpnSection(
    family="spn", width=64, heads=4, transformer_layers=1, pixelcnn_width=63, pixelcnn_layers=3, embedder_layers=1
)
PARTS = {"high": Part(1, "all", (0, 3)), "low": Part(1, "all", (3, 8))}


def rows(scale: Scale) -> list[Row]:
    """Sample the 3 high bits of RGB crops, and the 5 low bits beside them, from trained networks."""
    size = scale.size(16)
    plans = tile("chain", PARTS, image_bits=8)
    return [row for plan in plans for row in _stage_rows(scale, Stage(plan, (size, size, 3)))]


def _stage_rows(scale: Scale, stage: Stage) -> list[Row]:
    shape, batch = stage.shape, 4
    size, bits = shape.height, stage.plan.bits[1] - stage.plan.bits[0]
    steps = scale.repetitions(160)
    model = trained(stage, TINY if scale.tiny else SECTION, steps=steps)
    uniforms = uniforms_of(model, batch)
    context = stage.context(crops(batch, size, seed=2), stage.positions((0, 0), batch))
    draws = {name: sampler(model, choosing()) for name, sampler in SAMPLERS.items()}
    timed, pixels = 4, size * size
    with counted_passes(model) as passes:
        found = draws["fixed_point"](context, uniforms)
    agree = float((found == draws["cached"](context, uniforms)).all(-1).double().mean())
    seconds = interleaved(
        {
            "ours": lambda: draws["fixed_point"](context, uniforms),
            "passes": lambda: first_pixels(model, context, uniforms, timed),
        },
        scale.repetitions(3),
    )
    what = f"{size}x{size}, {bits} bits, batch {batch}"
    compared = faster(
        GROUP,
        f"{what}, against a full forward per sub-pixel",
        seconds["ours"],
        [each * pixels / timed for each in seconds["passes"]],
        batch * pixels,
        "pixels/s",
        note=f"a network after {steps} steps of training, {bits_of(stage, model):.2f} bits/dim: one trained for longer "
        f"takes more passes; baseline: {3 * timed} of {3 * pixels} passes timed; {agree:.2%} of pixels are "
        "those of the cached walk in float32",
    )
    share = passes[0] / (3 * pixels)
    counted = Row(
        GROUP,
        f"{what}, passes as a share of the steps",
        "passes",
        spread([passes[0]]),
        spread([3 * pixels]),
        spread([share]),
    )
    return [compared, counted]


def trained(stage: Stage, section: SpnSection, steps: int) -> Model:
    """Train a network on crops of photographs."""
    model = build(section, stage.shape)
    optimiser = build_optimiser(model, AdamW(name="adamw", learning_rate=0.003))
    for step in range(steps):
        slices = crops(16, stage.shape.height, seed=100 + step)
        loss = stage.nats(model, slices, stage.positions((0, 0), len(slices))).mean() / slices[0].numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def bits_of(stage: Stage, model: Model) -> float:
    """Measure the bits/dim of a stage on other crops than it was trained on."""
    slices = crops(64, stage.shape.height, seed=3)
    nats = stage.nats(model, slices, stage.positions((0, 0), len(slices))).mean()
    return bits_per_dim(float(nats), stage.image_dims)


def crops(count: int, size: int, seed: int) -> Tensor:
    """Cut crops out of the photographs bundled with scikit-learn, as slices under S = 1."""
    photos = [np.asarray(photo) for photo in load_sample_images().images]
    draws = np.random.default_rng(seed)
    cut = []
    for _ in range(count):
        photo = photos[draws.integers(len(photos))]
        top, left = (draws.integers(side - size + 1) for side in photo.shape[:2])
        cut.append(photo[top : top + size, left : left + size])
    return split_slices(torch.from_numpy(np.stack(cut)), 1)


@contextmanager
def counted_passes(model: Model) -> Iterator[list[int]]:
    """Count the whole passes made inside."""
    count, laws = [0], model.laws

    def counting(embedded: Tensor, embedded_context: Tensor | None, context: Context) -> Law:
        count[0] += 1
        return laws(embedded, embedded_context, context)

    model.laws = counting  # type: ignore[method-assign]
    yield count
    del model.laws
