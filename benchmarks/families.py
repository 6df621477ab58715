"""Sampling of the other families with caches, against a full forward pass for every pixel."""

import torch
from torch import Tensor

from benchmarks.measure import interleaved
from benchmarks.reference import (
    TINY_BART,
    Scale,
    bart_section,
    build,
    decoder_shape,
    no_context,
    randomised,
    scale_context,
    scale_shape,
)
from benchmarks.sampling import compare_samplers, compare_samples, first_pixels, uniforms_of
from benchmarks.table import Row, Target, faster
from spn.config import FamilySection, GatedPixelCnnSection, PixelCnnPpSection, PixelSnailSection
from spn.generation import SAMPLERS, WholePasses, choosing
from spn.generation.walk import walk_pixel
from spn.likelihood import Law

GROUP = "Sampling of other families"


def sections(scale: Scale) -> dict[str, tuple[FamilySection, Target | None]]:
    """Return PixelCNN++ at its smallest published size, and the others at about as many parameters."""
    width = 8 if scale.tiny else 32
    return {
        f"PixelCNN++ 1/{width}": (
            PixelCnnPpSection(family="pixelcnn_pp", resnets=1, filters=width),
            Target(20, 60),
        ),
        "Gated PixelCNN": (
            GatedPixelCnnSection(family="gated_pixelcnn", width=3 * width // 2, layers=8, law="mixture"),
            None,
        ),
        "PixelSNAIL": (
            PixelSnailSection(family="pixelsnail", width=3 * width // 2, blocks=3, resnets=2),
            None,
        ),
    }


def rows(scale: Scale) -> list[Row]:
    """Compare the walk with caches with passes over 32x32 RGB, batch 8, and over 256 codes."""
    for small, _ in sections(Scale(tiny=True)).values():
        compare_samples(small, size=4)
    shape = scale_shape(4, num_levels=16)
    compare_samplers(randomised(TINY_BART, shape), scale_context(shape, 3))
    others = [_against_passes(scale, name, *of_family) for name, of_family in sections(scale).items()]
    return others + [_bart_against_passes(scale, batch) for batch in (1, 8)]


def _bart_against_passes(scale: Scale, batch: int) -> Row:
    """Compare the walk over a grid of codes, given the scale above, with a pass of the decoder for every code."""
    size = scale.size(16)
    model = build(bart_section(scale), scale_shape(size)).eval().requires_grad_(False)
    context, uniforms = scale_context(model.shape, batch), uniforms_of(model, batch)
    draw, codes, timed = SAMPLERS["cached"](model, choosing()), size * size, min(4, size)
    passes = WholePasses(model)
    with torch.inference_mode():
        passes.begin(context)
        passes.start_row(0)

    @torch.inference_mode()
    def first_codes() -> list[Tensor]:
        return [walk_pixel(passes, 0, column, uniforms[:, 0, column], Law.quantile) for column in range(timed)]

    seconds = interleaved({"ours": lambda: draw(context, uniforms), "passes": first_codes}, scale.repetitions(5))
    parameters = sum(each.numel() for each in model.parameters())
    return faster(
        GROUP,
        f"ImageBART, a scale of {codes} codes, batch {batch}, against a full pass per code",
        seconds["ours"],
        [each / timed * codes for each in seconds["passes"]],
        batch * codes,
        "codes/s",
        target=Target(5, 8),
        note=f"{parameters:,} parameters, 256 codes to choose from; baseline: {timed} of {codes} passes of the "
        "decoder timed, all of which cost the same; samples are checked to be identical in float64",
    )


def _against_passes(scale: Scale, name: str, section: FamilySection, target: Target | None) -> Row:
    size, batch = scale.size(32), 8
    model = build(section, decoder_shape(size)).eval().requires_grad_(False)
    context, uniforms = no_context(model.shape, batch), uniforms_of(model, batch)
    draw, pixels = SAMPLERS["cached"](model, choosing()), size * size
    seconds = interleaved(
        {"ours": lambda: draw(context, uniforms), "passes": lambda: first_pixels(model, context, uniforms, 1)},
        scale.repetitions(3),
    )
    parameters = sum(each.numel() for each in model.parameters())
    return faster(
        GROUP,
        f"{name}, {size}x{size}, batch {batch}, against a full forward per pixel",
        seconds["ours"],
        # The first pixel was timed, with a pass for each channel; public code needs one pass for all three.
        [each / 3 * pixels for each in seconds["passes"]],
        batch * pixels,
        "pixels/s",
        target=target,
        note=f"{parameters:,} parameters, mixture of 10; baseline: 3 of {pixels} passes timed, all of which cost the "
        "same; samples are checked to be identical in float64",
    )
