"""Draws the figure that README opens with: samples in stages, and bits/dim against training time.

`python -m benchmarks.opening examples/cifar10_multidimensional.safetensors --workspaces cifar tiny --minutes 35
--output docs/opening.png`, where chains of equal budgets have been trained. A panel for each workspace shows the
training curves of its chains of one stage, and every chain's exact bits/dim at the end.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

import spn
from spn.config import load_params
from spn.report.curves import COLOURS, DPI, LOOK
from spn.report.tables import TRAIN

IMAGES = 12
"""Samples beside each other."""


def draw_samples(part: SubFigure, model: Path, seed: int) -> None:
    """Draw a row of samples after every stage of a chain."""
    chain = spn.load(model)
    rows = list(chain.sample_stages(IMAGES, seed=seed, exact=True))
    part.suptitle(f"samples of {chain.chain} after each of its stages ({chain.params.data.name}), not selected")
    edges: Any = {"left": 0.1, "right": 1.0, "bottom": 0.0, "top": 0.9, "wspace": 0.04, "hspace": 0.04}
    axes = part.subplots(len(rows), IMAGES, gridspec_kw=edges)
    for (stage, images), places in zip(rows, axes, strict=True):
        places[0].set_title(stage, x=-0.1, y=0.4, ha="right", fontsize=8)
        for place, image in zip(places, images, strict=True):
            place.imshow(image, interpolation="nearest")
            place.axis("off")


def draw_curves(panel: Axes, workspace: Path, minutes: float) -> None:
    """Draw what chains reach in equal time: those of one stage as curves, and the exact figure of each as a point."""
    params = load_params(workspace / "params.yaml")
    figures = {}
    for colour, (name, section) in zip(COLOURS, params.chains.items(), strict=False):
        path = workspace / f"results/chains/{name}/metrics.json"
        if not path.exists():
            continue
        metrics = json.loads(path.read_text())
        assert metrics["estimate"] == "exact"
        figures[name] = metrics["bits_per_dim"]
        panel.plot(minutes, figures[name], "o", color=colour, label=f"{figures[name]:.3f} {name}", clip_on=False)
        if len(section.stages) == 1:
            with (workspace / f"results/stages/{section.stages[0]}/history.csv").open() as file:
                history = [(int(row["step"]), float(row[TRAIN])) for row in csv.DictReader(file) if row[TRAIN]]
            last, _ = history[-1]
            times, values = zip(*((minutes * step / last, value) for step, value in history), strict=True)
            panel.plot(times, values, color=colour, linewidth=1, alpha=0.8)
    height, width, _ = params.data.shape
    panel.set_title(f"{params.data.name}, {height}x{width}")
    panel.set_ylim(min(figures.values()) - 0.1, min(figures.values()) + 1.6)
    panel.set_xlim(0, minutes)
    panel.set_xlabel("minutes of training on one core, all stages")
    panel.legend(title="exact bits/dim of test images", fontsize=8)


def main(arguments: list[str] | None = None) -> int:
    """Sample and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opening", description=__doc__)
    parser.add_argument("model", type=Path, help="file of a multidimensional chain")
    parser.add_argument("--workspaces", type=Path, nargs="+", required=True)
    parser.add_argument("--minutes", type=float, required=True, help="budget of every chain, by its preset")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with rc_context(LOOK):
        figure = Figure(figsize=(10, 6.4), dpi=DPI)
        above, below = figure.subfigures(2, 1, height_ratios=(2.6, 3.8))
        draw_samples(above, options.model, options.seed)
        panels = below.subplots(1, len(options.workspaces), squeeze=False, gridspec_kw={"bottom": 0.14, "top": 0.88})[0]
        panels[0].set_ylabel("bits/dim of training batches")
        for panel, workspace in zip(panels, options.workspaces, strict=True):
            draw_curves(panel, workspace, options.minutes)
        figure.savefig(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
