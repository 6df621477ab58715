"""One step of training against the common style, and as a share of the machine's peak."""

from pathlib import Path

import torch

from benchmarks.common_imagebart import CommonScale, common_scale
from benchmarks.common_pixelcnn_pp import common_twin
from benchmarks.common_style import CommonDecoder, common_step
from benchmarks.kept import forward_flops
from benchmarks.machine import Peaks, onednn, product, trains_through_onednn
from benchmarks.measure import Run, interleaved, ratios, spread, timer_of
from benchmarks.problems import one_slice
from benchmarks.reference import (
    CPU,
    NUM_SCALES,
    TINY_BART,
    Scale,
    bart_section,
    build,
    decoder_shape,
    no_context,
    noise,
    randomised,
    scale_shape,
    trainer,
    trainer_of_scale,
)
from benchmarks.same_weights import common_decoder
from benchmarks.table import Row, Target, faster
from spn.config import FamilySection, ImageBartSection, PixelCnnPpSection, SpnSection, StagePlan
from spn.config.diffusion import GeometricSchedule, Noise
from spn.stages import build_stage
from spn.stages.scale import Scale as DiffusionScale

GROUP = "Training step"

TARGETS = {
    "float32": (Target(1.5, 1.7), Target(0.40, 0.55)),
    "bfloat16": (Target(2.2, 2.5), Target(0.28, 0.40)),
}
"""Targets against the common style, and as a share of the peak."""

PLUS_PLUS_TARGETS = {"float32": Target(1.5, 2.0), "bfloat16": Target(2.0, 3.0)}
"""Targets of PixelCNN++ against the common style."""

BART_TARGET = Target(1.2, 1.5)
"""Target of a scale of ImageBART against the common style."""

COMPILED = ("float32 with --compile", "bfloat16 with --compile")


def rows(scale: Scale, folder: Path, peaks: Peaks) -> list[Row]:
    """Compare a step on 16 slices of 16x16 with the common style and with the peak; then steps of PixelCNN++."""
    size, times = (256, 1) if scale.tiny else (2048, 10)
    beside = {f"{name} product": product(size, getattr(torch, name), CPU, times) for name in TARGETS}
    beside |= compiled_steps(scale, folder, scale.section, 16, 16)
    seconds = step_seconds(scale, folder, 16, CPU, beside)
    shares = [
        share_of_peak(
            scale, 16, seconds[name], seconds[f"{precision_of(name)} product"], 2 * size**3 * times, name, peaks
        )
        for name in ours_of(seconds)
    ]
    return against_common(scale, 16, seconds) + shares + plus_plus_rows(scale, folder) + [bart_row(scale, folder)]


def compiled_steps(scale: Scale, folder: Path, section: FamilySection, size: int, batch: int) -> dict[str, Run]:
    """Return compiled steps; none in a tiny run, because each takes a minute to compile."""
    if scale.tiny:
        return {}
    return {
        name: trainer(folder, section, size, 1, batch, precision_of(name), CPU, True).train_step for name in COMPILED
    }


def precision_of(name: str) -> str:
    """Return the precision that the name of a step begins with."""
    return name.split()[0]


def ours_of(seconds: dict[str, list[float]]) -> list[str]:
    """List our steps among the timed ones."""
    return [name for name in (*TARGETS, *COMPILED) if name in seconds]


def step_seconds(
    scale: Scale, folder: Path, batch: int, device: torch.device, beside: dict[str, Run]
) -> dict[str, list[float]]:
    """Time the step of `spn train` on 16x16 slices, the same network in the common style, and the runs `beside`.

    Ours and those `beside` route matrix products as training does; the common style uses torch's own.
    """
    section, size = scale.section, scale.size(16)
    shape = decoder_shape(size)
    common = common_decoder(build(section, shape), CommonDecoder(section, shape)).float().to(device)
    optimiser = torch.optim.AdamW(common.parameters(), lr=1e-3)
    levels = noise((batch, 3, size, size)).to(device)
    steps = {name: trainer(folder, section, size, 1, batch, name, device).train_step for name in TARGETS}
    return _taking_turns(scale, steps | beside, lambda: common_step(common.loss, optimiser, levels), device)


def _taking_turns(scale: Scale, ours: dict[str, Run], common: Run, device: torch.device) -> dict[str, list[float]]:
    through_onednn = trains_through_onednn(device)

    def routed(run: Run) -> Run:
        def under() -> None:
            with onednn(through_onednn):
                run()

        return under

    runs = {name: routed(run) for name, run in ours.items()} | {"common": common}
    return interleaved(runs, scale.repetitions(7), timer_of(device), warm_up=1 if device.type == "cpu" else 5)


def against_common(scale: Scale, batch: int, seconds: dict[str, list[float]]) -> list[Row]:
    """Compare our steps with the common style's in float32, as in public code."""
    size, difference = scale.size(16), loss_difference(scale.section)
    assert difference < 1e-5, f"expected the loss of the common style, got one {difference} off"
    note = f"same function, same weights: losses differ by {difference:.0e} nats a sub-pixel in float64"
    return [
        faster(
            GROUP,
            f"{size}x{size} slice, batch {batch}, {name}, against the common style in float32",
            seconds[name],
            seconds["common"],
            batch,
            "images/s",
            target=TARGETS[precision_of(name)][0],
            note=note,
        )
        for name in ours_of(seconds)
    ]


def share_of_peak(
    scale: Scale,
    batch: int,
    steps: list[float],
    products: list[float],
    work_of_product: float,
    name: str,
    peaks: Peaks,
) -> Row:
    """Compare the rate of work of a step with that of matrix products timed in between."""
    size, precision = scale.size(16), precision_of(name)
    work = 3 * batch * forward_flops(one_slice(scale.section, size, 1))
    rates, baseline = [work / each for each in steps], [work_of_product / each for each in products]
    of_best = spread(rates).median / getattr(peaks, precision)
    return Row(
        GROUP,
        f"{size}x{size} slice, batch {batch}, {name}, share of the matmul peak",
        "GFLOP/s",
        spread(rates).times(1e-9),
        spread(baseline).times(1e-9),
        spread(ratios(rates, baseline)),
        TARGETS[precision][1],
        f"{work / 1e9:.0f} GFLOP a step: 3 times the forward pass, live weights and pairs only; products of 2048x2048 "
        f"between the steps; of the best product of the whole run {of_best:.0%}",
    )


@torch.no_grad()
def loss_difference(section: SpnSection, size: int = 4) -> float:
    """Return the difference in loss of our decoder and its common-style twin, in nats per sub-pixel, in float64."""
    shape = decoder_shape(size)
    ours = randomised(section, shape)
    common = common_decoder(ours, CommonDecoder(section, shape))
    levels = noise((2, size, size, 3))
    loss = -ours(levels, no_context(shape, 2)).log_prob(levels).double().mean()
    return float((loss - common.loss(levels.permute(0, 3, 1, 2))).abs())


def plus_plus_rows(scale: Scale, folder: Path) -> list[Row]:
    """Compare steps of PixelCNN++ on 32x32 RGB, batch 8, with the common style."""
    sizes = ((1, 4),) if scale.tiny else ((1, 32), (2, 64))
    return [
        row
        for resnets, filters in sizes
        for row in _plus_plus(scale, folder, PixelCnnPpSection(family="pixelcnn_pp", resnets=resnets, filters=filters))
    ]


def _plus_plus(scale: Scale, folder: Path, section: PixelCnnPpSection) -> list[Row]:
    size, batch = scale.size(32), 8
    difference = plus_plus_difference(section)
    assert difference < 1e-5, f"expected the loss of the common style, got one {difference} off"
    common = common_twin(build(section, decoder_shape(size)), section).float()
    optimiser, levels = torch.optim.Adam(common.parameters(), lr=1e-3), noise((batch, 3, size, size))
    steps: dict[str, Run] = {
        name: trainer(folder, section, size, 1, batch, name).train_step for name in PLUS_PLUS_TARGETS
    }
    steps |= compiled_steps(scale, folder, section, size, batch)
    seconds = _taking_turns(scale, steps, lambda: common_step(common.loss, optimiser, levels), CPU)
    return [
        faster(
            GROUP,
            f"PixelCNN++ {section.resnets}/{section.filters}, {size}x{size}, batch {batch}, {name}, against the common "
            "style in float32",
            seconds[name],
            seconds["common"],
            batch,
            "images/s",
            target=PLUS_PLUS_TARGETS[precision_of(name)],
            note=f"same function, same weights: losses differ by {difference:.0e} nats a sub-pixel in float64, because "
            "public code approximates small masses; it drops whole channels, ours single features",
        )
        for name in steps
    ]


@torch.no_grad()
def plus_plus_difference(section: PixelCnnPpSection, size: int = 8) -> float:
    """Return the difference in loss of our PixelCNN++ and its common-style twin, in nats per sub-pixel, in float64."""
    shape = decoder_shape(size)
    ours = randomised(section, shape)
    common = common_twin(ours, section).eval()
    levels = noise((2, size, size, 3))
    loss = -ours(levels, no_context(shape, 2)).log_prob(levels).mean()
    return float((loss - common.loss(levels.permute(0, 3, 1, 2))).abs())


def bart_row(scale: Scale, folder: Path) -> Row:
    """Compare a step of a scale of ImageBART on 16x16 codes, batch 16, with the common style."""
    size, batch, section = scale.size(16), 16, bart_section(scale)
    difference = bart_difference(TINY_BART)
    assert difference < 1e-9, f"expected the loss of the common style, got one {difference} off"
    steps: dict[str, Run] = {"ours": trainer_of_scale(folder, section, size, 2, batch).train_step}
    shape, before = scale_shape(size), 1 - 1 / NUM_SCALES
    common = common_scale(build(section, shape), CommonScale(section, shape, before)).float()
    optimiser, codes = torch.optim.AdamW(common.parameters(), lr=1e-3), noise((batch, size * size))
    seconds = _taking_turns(scale, steps, lambda: common_step(common.loss, optimiser, codes), CPU)
    return faster(
        GROUP,
        f"ImageBART, scale 2 of {NUM_SCALES}, {size}x{size} codes, batch {batch}, float32, against the common style",
        seconds["ours"],
        seconds["common"],
        batch,
        "images/s",
        target=BART_TARGET,
        note=f"same function, same weights: losses differ by {difference:.0e} nats a code in float64",
    )


@torch.no_grad()
def bart_difference(section: ImageBartSection, size: int = 4) -> float:
    """Return the difference in loss of scale 2 and its common-style twin, in nats per code, in float64."""
    noise_of_scale = Noise(2, GeometricSchedule(name="geometric", scales=NUM_SCALES).kept)
    plan = StagePlan("scale2", 1, 8, (0, 8), ((0, 0),), ((255,),), kind="scale", noise=noise_of_scale)
    stage = build_stage(plan, (size, size, 1))
    assert isinstance(stage, DiffusionScale)
    ours = randomised(section, stage.shape)
    common = common_scale(ours, CommonScale(section, stage.shape, noise_of_scale.kept[1]))
    clean, earlier, later = (noise((2, size, size, 1), seed=seed) for seed in (1, 2, 3))
    slices, position = clean[:, None, None].to(torch.uint8), stage.positions((0, 0), 2)
    nats = stage.term(ours, slices, position, None, earlier, later).mean() / clean[0].numel()
    return float((nats - common.divergence(*(each.flatten(1) for each in (clean, earlier, later)))).abs())
