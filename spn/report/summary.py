"""Writes all files of the report."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from spn.config import Params
from spn.files import write_text
from spn.paths import BARS, CURVES, GALLERY, REAL, plots_folder
from spn.report.curves import plot_bits_per_dim, plot_curves
from spn.report.gallery import Gallery, html_gallery
from spn.report.pictures import save_grid
from spn.report.tables import ChainMetrics, History, Pictured, curve_csv, metrics_tree, shares_csv


def write_report(
    params: Params,
    chain_metrics: ChainMetrics,
    histories: Mapping[str, History],
    real_images: UInt8[np.ndarray | Tensor, "image height width channel"],
    gallery: Gallery,
    output: Path,
    pictured: Pictured,
) -> Path:
    """Write metrics.json to `output`, and figures, pages and their data to `output`/plots; return that folder.

    All of it is versioned, so sampling speeds, which vary between runs, are left out, and so is what differs from the
    last commit, which a commit would change (`spn verify` says it). Pictures of completions and reconstructions are
    read from `output`.

    `chain_metrics` and `histories` hold every chain and every stage of `params`; `real_images` are levels.
    Raises InputError if the chains were not all evaluated on the same images.
    """
    assert chain_metrics.keys() == params.plans.keys()
    assert histories.keys() == params.stage_plans.keys()
    plots = plots_folder(output)
    plot_curves(params, histories, plots / CURVES)
    plot_bits_per_dim(params, chain_metrics, plots / BARS)
    save_grid(real_images, params.data.white_level, plots / REAL)
    write_text(plots / GALLERY, html_gallery(params, chain_metrics, gallery, output, pictured))
    write_text(plots / "bits_per_dim.csv", shares_csv(chain_metrics))
    for stage, history in histories.items():
        write_text(plots / "curves" / f"{stage}.csv", curve_csv(history))
    for path in (plots / "curves").glob("*.csv"):
        if path.stem not in histories:
            path.unlink()  # its stage is no longer in params.yaml
    tree = metrics_tree(params, chain_metrics, pictured)
    write_text(output / "metrics.json", json.dumps(tree, indent=2, allow_nan=False) + "\n")
    return plots
