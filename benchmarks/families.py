"""Sampling of the other families with caches, against a full forward pass for every pixel."""

from benchmarks.measure import interleaved
from benchmarks.reference import Scale, build, decoder_shape, no_context
from benchmarks.sampling import compare_samples, first_pixels, uniforms_of
from benchmarks.table import Row, Target, faster
from spn.config import FamilySection, GatedPixelCnnSection, PixelCnnPpSection, PixelSnailSection
from spn.generation import SAMPLERS, choosing

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
    """Compare the walk with caches with passes over 32x32 RGB, batch 8."""
    for small, _ in sections(Scale(tiny=True)).values():
        compare_samples(small, size=4)
    return [_against_passes(scale, name, *of_family) for name, of_family in sections(scale).items()]


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
