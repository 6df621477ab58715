"""How cost grows with the size of the image, for slices of one size, and with the batch size in sampling."""

from pathlib import Path

from benchmarks.kept import forward_flops
from benchmarks.measure import Run, Spread, interleaved, spread
from benchmarks.memory import MEGABYTE, kept_of_slice
from benchmarks.problems import one_slice
from benchmarks.reference import Scale, build, decoder_shape, no_context, trainer
from benchmarks.sampling import uniforms_of
from benchmarks.table import Row, faster
from spn.generation import SAMPLERS, choosing
from spn.models import Model

TIME = "Growth: seconds of a training step per image, one slice against the full image"
MEMORY = "Growth: MB kept for backward per image, one slice against the full image"
BATCHES = "Growth: pixels/s sampled with the batch"
LONGEST = 10.0
"""Maximum expected seconds of a step on the full image for it to be timed."""


def rows(scale: Scale, folder: Path) -> list[Row]:
    """Grow the image with 16x16 slices, then the batch."""
    side = scale.size(16)
    factors = (1, 2) if scale.tiny else (1, 2, 4, 8, 16)
    memory = [_memory(scale, side, factor) for factor in factors]
    return _times(scale, folder, side, factors) + memory + _batches(scale)


def _times(scale: Scale, folder: Path, side: int, factors: tuple[int, ...]) -> list[Row]:
    """Time slices of images up to 8 times as large, and the full image if its step is expected to be short."""
    found, batch, expected = [], 2, 0.0
    for factor in [factor for factor in factors if factor <= 8]:
        size, section = side * factor, scale.section
        runs = {"slice": trainer(folder, section, size, factor, batch).train_step}
        if expected < LONGEST:
            runs["image"] = trainer(folder, section, size, 1, batch).train_step
        seconds = interleaved(runs, scale.repetitions(3))
        one = spread(seconds["slice"]).times(1 / batch)
        full = spread(seconds["image"]).times(1 / batch) if "image" in seconds else None
        found.append(
            _row(
                TIME,
                size,
                factor,
                "s",
                one,
                full,
                note="" if full else f"a step of the full image: expected to take over {LONGEST:.0f} s",
            )
        )
        larger, work = (forward_flops(one_slice(section, side, 1)) for side in (2 * size, size))
        expected = batch * full.median * larger / work if full else LONGEST
    return found


def _memory(scale: Scale, side: int, factor: int) -> Row:
    kept = (kept_of_slice(scale.section, side * factor, scale_factor) for scale_factor in (factor, 1))
    one, full = (spread([each.per_image / MEGABYTE]) for each in kept)
    return _row(MEMORY, side * factor, factor, "MB", one, full)


def _row(group: str, size: int, factor: int, unit: str, one: Spread, full: Spread | None, note: str = "") -> Row:
    ratio = spread([full.median / one.median]) if full else None
    return Row(group, f"{size}x{size} image, S={factor}", unit, one, full, ratio, note=note)


def _batches(scale: Scale) -> list[Row]:
    size = scale.size(16)
    model = build(scale.section, decoder_shape(size)).eval().requires_grad_(False)
    batches = (1, 2) if scale.tiny else (1, 2, 4, 8, 16, 32, 64)
    # Each with its own sampler, which keeps its buffers between batches of the same size.
    seconds = interleaved({str(batch): _draw(model, batch) for batch in batches}, scale.repetitions(3))
    return [
        faster(
            BATCHES,
            f"{size}x{size}, batch {batch}, against batch 1",
            [each / batch for each in seconds[str(batch)]],
            seconds["1"],
            size * size,
            "pixels/s",
        )
        for batch in batches
    ]


def _draw(model: Model, batch: int) -> Run:
    context, uniforms = no_context(model.shape, batch), uniforms_of(model, batch)
    draw = SAMPLERS["cached"](model, choosing())
    return lambda: draw(context, uniforms)
