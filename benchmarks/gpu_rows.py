"""The rows that need a GPU: training as a share of its peak, sampling, one pixel step, memory, compilation."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import training
from benchmarks.kept import Problem, forward_flops, held_bytes, peak_bytes
from benchmarks.machine import Peaks
from benchmarks.measure import Run, interleaved, spread, timer_of
from benchmarks.memory import MEGABYTE
from benchmarks.problems import common_image, one_slice
from benchmarks.reference import TINY, Scale, build, decoder_shape, no_context, trainer
from benchmarks.sampling import compare_samples, uniforms_of
from benchmarks.table import Row, Target, faster
from spn.config import SpnSection
from spn.generation import SAMPLERS, build_steps, choosing, walk
from spn.likelihood import Law

MFU = {128: Target(0.12, 0.25), 512: Target(0.35, 0.50), 1024: Target(0.35, 0.50)}
PIXELS = Target(2e6, 5e6)
STEP = Target(200, 100, at_most=True)

Held = tuple[float, float]
"""Bytes kept for backward, and at the peak."""


def wide(width: int) -> SpnSection:
    """Return the reference network at another width, in the proportions of the presets for GPUs."""
    return SpnSection(
        family="spn",
        width=width,
        heads=max(2, width // 64),
        transformer_layers=2,
        pixelcnn_width=width * 3 // 4,
        pixelcnn_layers=4,
    )


def utilisation(scale: Scale, folder: Path, peaks: Peaks, device: torch.device) -> list[Row]:
    """Train networks of growing width in bfloat16 on slices of 32x32."""
    found = []
    for width, target in MFU.items():
        size, batch = scale.size(32), 2 if scale.tiny else 32_768 // width
        section = wide(16 if scale.tiny else width)
        step = trainer(folder, section, size, 1, batch, "bfloat16", device).train_step
        seconds = interleaved({"ours": step}, scale.repetitions(9), timer_of(device), scale.repetitions(5))["ours"]
        work = 3 * batch * forward_flops(one_slice(section, size, 1))
        found.append(
            Row(
                "Training in bfloat16, share of the measured bfloat16 peak",
                f"width {section.width}, {size}x{size} slice, batch {batch}",
                "TFLOP/s",
                spread(work / each / 1e12 for each in seconds),
                spread([peaks.bfloat16 / 1e12]),
                spread(work / each / peaks.bfloat16 for each in seconds),
                target,
                f"{spread(seconds).median * 1e3:.1f} ms a step, {work / 1e12:.2f} TFLOP",
            )
        )
        del step
    return found


def against_common(scale: Scale, folder: Path, peaks: Peaks, device: torch.device) -> list[Row]:
    """Train the reference network beside its common-style twin."""
    batch = 4 if scale.tiny else 256
    return training.against_common(scale, batch, training.step_seconds(scale, folder, batch, device, beside={}))


def sampling(scale: Scale, folder: Path, peaks: Peaks, device: torch.device) -> list[Row]:
    """Sample 16x16 slices: throughput at a large batch, one pixel step at small ones, and the eager walk beside."""
    compare_samples(TINY, device)
    size, large = scale.size(16), 4 if scale.tiny else 1024
    model = build(scale.section, decoder_shape(size)).to(device).eval().requires_grad_(False)
    draw, pixels, found = SAMPLERS["cached"](model, choosing()), size * size, []
    for batch in (1, 16, large):
        context, uniforms = no_context(model.shape, batch, device), uniforms_of(model, batch).to(device)
        steps = build_steps(model, batch)
        runs: dict[str, Run] = {
            "ours": lambda context=context, uniforms=uniforms: draw(context, uniforms),
            "eager": lambda steps=steps, context=context, uniforms=uniforms: walk(steps, context, uniforms, _choose),
        }
        seconds = interleaved(runs, scale.repetitions(5), timer_of(device))
        what = f"{size}x{size} slice, batch {batch}"
        if batch == large:
            rate = spread(batch * pixels / each for each in seconds["ours"])
            found.append(Row("Sampling", what, "pixels/s", rate, target=PIXELS))
        else:
            step = spread(seconds["ours"]).times(1e6 / pixels)
            found.append(Row("Sampling", f"{what}: one pixel step", "us", step, target=STEP))
        found.append(
            faster(
                "Sampling",
                f"{what}, as sampled against the eager walk",
                seconds["ours"],
                seconds["eager"],
                batch * pixels,
                "pixels/s",
            )
        )
    return found


def _choose(law: Law, uniform: Tensor) -> Tensor:
    return law.quantile(uniform)


def memory(scale: Scale, folder: Path, peaks: Peaks, device: torch.device) -> list[Row]:
    """Compare allocated memory for one slice of a 64x64 image with that for the full image."""
    section, size, found = scale.section, scale.size(64), []
    full, common = (_held(problem(section, size, 1), device) for problem in (one_slice, _common))
    cases: list[tuple[str, Held, Held, Target | None]] = [("full image against the common style", full, common, None)]
    for factor in (2,) if scale.tiny else (4, 8):
        square = Target(0.9 * factor**2, float(factor**2))
        what = f"{size // factor}x{size // factor} slice against the full image"
        cases.append((f"{what}: decoder", _held(one_slice(section, size // factor, 1), device), full, square))
        beside = _held(one_slice(section, size, factor), device)
        cases.append((f"{what}: decoder and slice embedder", beside, full, square))
    for index, when in enumerate(("kept for backward", "at the peak of forward and backward")):
        for name, ours, baseline, target in cases:
            above, below = baseline[index] / MEGABYTE, ours[index] / MEGABYTE
            found.append(
                Row(
                    f"Memory an image, {size}x{size}, {when}",
                    name,
                    "MB",
                    spread([below]),
                    spread([above]),
                    spread([above / below]),
                    target if index == 0 else None,
                )
            )
    return found


def _common(section: SpnSection, size: int, scale_factor: int) -> Problem:
    return common_image(section, size)


def _held(problem: Problem, device: torch.device, batch: int = 4) -> Held:
    """Return the bytes that an image adds: kept after the forward pass, and at the peak of forward and backward."""
    with torch.device(device):
        measure = _held_on_cuda if device.type == "cuda" else _held_on_cpu
        one, two = (measure(*problem(count)) for count in (batch, 2 * batch))
    kept, peak = ((more - less) / batch for more, less in zip(two, one, strict=True))
    return kept, peak


def _held_on_cuda(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[int, int]:
    loss().backward()  # makes the gradients and the work spaces
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = loss()
    kept = torch.cuda.memory_allocated() - before
    result.backward()
    return kept, torch.cuda.max_memory_allocated() - before


def _held_on_cpu(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[int, int]:
    return held_bytes(model, loss), peak_bytes(loss)


def compilation(scale: Scale, folder: Path, peaks: Peaks, device: torch.device) -> list[Row]:
    """Train a wide network with and without compilation."""
    size, batch = scale.size(32), 2 if scale.tiny else 64
    section = scale.section if scale.tiny else wide(512)
    runs: dict[str, Run] = {
        name: trainer(folder, section, size, 1, batch, "bfloat16", device, compiled=name == "on").train_step
        for name in ("on", "off")
    }
    seconds = interleaved(runs, scale.repetitions(9), timer_of(device), warm_up=scale.repetitions(5))
    name = f"width {section.width}, {size}x{size} slice, batch {batch}, bfloat16: torch.compile on against off"
    return [faster("Training in bfloat16, compiled", name, seconds["on"], seconds["off"], batch, "images/s")]
