"""Draws the scales of what passes through a network, layer by layer, before training and after some steps.

`python -m benchmarks.scales --workspace experiments/compare --stages raster pixelcnn_pp`, where the data of the stages
has been made. For every layer, in the order in which layers run, a panel shows the standard deviation of its outputs
and that of the loss's gradient by them (nats per sub-pixel, summed over the batch). Layers whose gradients are orders
of magnitude apart cannot learn equally fast with one learning rate.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import trange

from benchmarks.reference import CPU
from spn.config import load_params
from spn.data.hdf5 import SliceFile
from spn.layers import ChannelCausalLinear, GatedLayer, HorizontalConv
from spn.machine import onednn_matmul
from spn.paths import slices_path
from spn.provenance import stage_recipe
from spn.training.trainer import Trainer

MAPS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, ChannelCausalLinear, HorizontalConv)
"""Modules that count as layers: affine maps."""


@dataclass
class Scales:
    """Standard deviations of the outputs of layers and of the loss's gradients by them, in the order of the layers."""

    outputs: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)


def scales_of(trainer: Trainer) -> Scales:
    """Measure the scales on the batch of the trainer's next step."""
    scales, model, stage = Scales(), trainer.model, trainer.stage
    slices, position, labels = trainer._batch(trainer.state.step)
    with _watched(model, scales), torch.random.fork_rng():
        nats = stage.nats(model, slices, position, labels).sum() / slices[0, 0, 0].numel()
        nats.backward()
    model.zero_grad()
    # Backward, gradients come in the reverse order; a layer that passes none on yet has no scale to draw.
    found = scales.gradients
    scales.gradients = {name: found.get(name) or float("nan") for name in scales.outputs}
    return scales


@contextmanager
def _watched(model: nn.Module, scales: Scales) -> Iterator[None]:
    def of_outputs(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        scales.outputs[name] = float(output.detach().std())
        if output.requires_grad:
            output.register_hook(partial(of_gradient, name))

    def of_gradient(name: str, gradient: Tensor) -> None:
        scales.gradients[name] = float(gradient.std())

    gated = [module for module in model.modules() if isinstance(module, GatedLayer)]
    for layer in gated:
        layer.merges_link = False
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, MAPS)]
    hooks = [module.register_forward_hook(partial(of_outputs, name)) for name, module in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in gated:
            layer.merges_link = True


def trained(workspace: Path, stages: list[str], steps: int) -> dict[str, dict[int, Scales]]:
    """Measure the scales of stages, by name, before training and after `steps` steps of it."""
    params = load_params(workspace / "params.yaml")
    measured = {}
    for name in stages:
        path = slices_path(params.data.name, params.stages[name].scale_factor, workspace / "data")
        data = SliceFile(path)
        trainer = Trainer(params, name, data, stage_recipe(params, name, data.digest), CPU)
        with onednn_matmul(CPU), torch.random.fork_rng():
            trainer.initialise()
            before = scales_of(trainer)
            for _ in trange(steps, desc=name, leave=False):
                trainer.train_step()
            measured[name] = {0: before, steps: scales_of(trainer)}
    return measured


def draw(measured: dict[str, dict[int, Scales]], path: Path) -> None:
    """Draw a column per stage, outputs above gradients, to a PNG."""
    figure = Figure(figsize=(4.2 * len(measured), 6), dpi=110, layout="constrained")
    panels = figure.subplots(2, len(measured), squeeze=False, sharey="row")
    for column, (name, times) in zip(panels.T, measured.items(), strict=True):
        column[0].set_title(name)
        for panel, what in zip(column, ("outputs", "gradients"), strict=True):
            for step, scales in times.items():
                values = getattr(scales, what)
                label = f"after {step} steps" if step else "before training"
                panel.plot(list(values.values()), marker=".", linewidth=0.8, label=label)
            _name_parts(panel, list(values))
            panel.set_yscale("log")
            panel.grid(alpha=0.3, axis="y")
    panels[0, 0].legend()
    panels[0, 0].set_ylabel("standard deviation of outputs")
    panels[1, 0].set_ylabel("standard deviation of gradients")
    figure.supxlabel("layers, in the order in which they run")
    figure.savefig(path)


def _name_parts(panel: Axes, names: list[str]) -> None:
    """Name the network's parts below their layers, with a line between parts."""
    place, ticks = 0, {}
    for part, layers in groupby(names, key=lambda name: name.split(".")[0]):
        count = len(list(layers))
        panel.axvline(place - 0.5, color="grey", linewidth=0.5)
        ticks[place + (count - 1) / 2] = part
        place += count
    panel.set_xticks(list(ticks), list(ticks.values()), rotation=60, ha="right", fontsize=7)


def main(arguments: list[str] | None = None) -> int:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scales", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of params.yaml and data/")
    parser.add_argument("--stages", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    draw(trained(options.workspace, options.stages, options.steps), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
