"""Sampling with caches against a full forward pass for every sub-pixel, and against common-style samplers."""

import torch
from torch import Tensor

from benchmarks import common_snail
from benchmarks.kept import forward_flops
from benchmarks.measure import interleaved
from benchmarks.problems import common_snail as snail_problem
from benchmarks.problems import one_slice
from benchmarks.reference import CPU, TINY, Scale, build, decoder_shape, no_context, randomised
from benchmarks.table import Row, Target, faster
from spn.config import FamilySection
from spn.generation import SAMPLERS, WholePasses, choosing, keyed_uniforms
from spn.generation.walk import walk_pixel
from spn.likelihood import Law
from spn.models import Context, Model

GROUP = "Sampling"
TARGETS = {
    (16, 1): Target(40, 100),
    (16, 16): Target(180, 320),
    (32, 1): Target(150, 350),
    (32, 16): Target(400, 800),
}


def rows(scale: Scale) -> list[Row]:
    """Compare the walk with caches with the plain walk, then with a PixelSNAIL of similar cost."""
    compare_samples(TINY)
    return [_against_passes(scale, size, batch) for size, batch in TARGETS] + _against_snail(scale)


def compare_samples(section: FamilySection, device: torch.device = CPU, size: int = 5) -> None:
    """Check in float64 that every sampler draws the same levels from the same uniforms."""
    shape = decoder_shape(size, num_levels=16)
    compare_samplers(randomised(section, shape).to(device), no_context(shape, 3, device))


def compare_samplers(model: Model, context: Context) -> None:
    """Check that every sampler draws the same levels of a model from the same uniforms."""
    uniforms = uniforms_of(model, len(context.position)).to(context.position.device)
    drawn = {name: sampler(model, choosing())(context, uniforms) for name, sampler in SAMPLERS.items()}
    for name, levels in drawn.items():
        assert torch.equal(levels, drawn["plain"]), f"expected the sample of the plain walk from {name}"


def uniforms_of(model: Model, batch: int) -> Tensor:
    """Draw the keyed uniforms of a batch."""
    shape = model.shape
    return keyed_uniforms(1, "stage", (0, 0), range(batch), (shape.height, shape.width, shape.channels))


@torch.inference_mode()
def first_pixels(model: Model, context: Context, uniforms: Tensor, pixels: int) -> list[Tensor]:
    """Walk the first pixels by the plain walk: a full forward pass for each channel of each."""

    def choose(law: Law, uniform: Tensor) -> Tensor:
        return law.quantile(uniform)

    steps, columns = WholePasses(model), uniforms.shape[2]
    steps.begin(context)
    drawn = []
    for row, column in (divmod(pixel, columns) for pixel in range(pixels)):
        steps.start_row(row)
        drawn.append(walk_pixel(steps, row, column, uniforms[:, row, column], choose))
    return drawn


def _against_passes(scale: Scale, size: int, batch: int) -> Row:
    target, size = TARGETS[size, batch], scale.size(size)
    model = build(scale.section, decoder_shape(size)).eval().requires_grad_(False)
    context, uniforms = no_context(model.shape, batch), uniforms_of(model, batch)
    draw = SAMPLERS["cached"](model, choosing())
    timed, pixels = (4 if batch == 1 else 1), size * size
    seconds = interleaved(
        {
            "ours": lambda: draw(context, uniforms),
            "passes": lambda: first_pixels(model, context, uniforms, timed),
        },
        scale.repetitions(3),
    )
    return faster(
        GROUP,
        f"{size}x{size}, batch {batch}, against a full forward per sub-pixel",
        seconds["ours"],
        [each * pixels / timed for each in seconds["passes"]],
        batch * pixels,
        "pixels/s",
        target=target,
        note=f"baseline: {3 * timed} of {3 * pixels} passes timed, all of which cost the same; "
        "samples are checked to be identical in float64",
    )


def _against_snail(scale: Scale) -> list[Row]:
    size, batch = scale.size(32), 16
    width, blocks = (8, 1) if scale.tiny else (64, 6)
    ours = build(scale.section, decoder_shape(size)).eval().requires_grad_(False)
    snail = common_snail.CommonPixelSnail(size, 3, 256, width, blocks, residuals=2, key_width=16).eval()
    context, uniforms = no_context(ours.shape, batch), uniforms_of(ours, batch)
    draw = SAMPLERS["cached"](ours, choosing())
    pixels = size * size
    seconds = interleaved(
        {"ours": lambda: draw(context, uniforms), "snail": lambda: common_snail.sample(snail, batch, steps=1)},
        scale.repetitions(3),
    )
    costs = [
        f"{sum(each.numel() for each in model.parameters()):,} parameters, "
        f"{forward_flops(problem) / pixels / 1e6:.2f} MFLOP a pixel forward"
        for model, problem in (
            (ours, one_slice(scale.section, size, 1)),
            (snail, snail_problem(size, width, blocks)),
        )
    ]
    note = f"ours: {costs[0]}; PixelSNAIL: {costs[1]}; 1 of its passes timed"
    return [
        faster(
            GROUP,
            f"{size}x{size}, batch {batch}, against a common-style PixelSNAIL, a pass per {what}",
            seconds["ours"],
            [each * pixels * passes for each in seconds["snail"]],
            batch * pixels,
            "pixels/s",
            target=Target(250, 600),
            note=note,
        )
        for what, passes in (("sub-pixel", 3), ("pixel (no order among channels)", 1))
    ]
