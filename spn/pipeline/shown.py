"""Collects what the report shows of each chain: samples with their bits/dim, real images, and nearest neighbours."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from spn.config import Params
from spn.data.hdf5 import SliceFile
from spn.data.images import read_generated, read_images
from spn.data.in_memory import ImagesInMemory
from spn.evaluation.evaluate import load_nats, stage_nats
from spn.evaluation.neighbours import nearest
from spn.evaluation.views import mix_nats
from spn.files import read_json
from spn.generation.sample import sample_labels
from spn.generation.views import undo_views
from spn.image import apply_view, join_slices
from spn.likelihood import bits_per_dim
from spn.notes import FILES
from spn.paths import NATS, checkpoint_path, codes_path, samples_path, stage_folder, summary_path
from spn.pipeline.opening import open_slices
from spn.pipeline.reading import read_stage_metrics
from spn.provenance import sampled_label
from spn.report.gallery import Gallery, Shown, class_text
from spn.report.pictures import evenly_spaced
from spn.shapes import Labels
from spn.trained import load_trained

SCORED = 16
"""Number of samples of each chain that are scored, and of real images beside them."""
COMPARED = 4
"""Number of samples of each chain that are compared with all training images, and shown after every stage."""


VIEW_UNDONE = "view undone"
"""The column of a mixture's samples after those of its stages."""


def show(params: Params, slices: SliceFile, results: Path, place: torch.device) -> Gallery:
    """Collect what the report shows: the first samples of every chain, evenly spaced test images, and neighbours."""
    chosen = evenly_spaced(SCORED, slices.num_images("test"))
    real = join_slices(slices.slices("test", chosen))
    compared = [finished_samples(params, chain, results)[:COMPARED] for chain in params.chains]
    near = nearest(torch.cat((real, *compared)), slices, "train")
    ends = np.cumsum([len(real), *map(len, compared)])
    return Gallery(
        real,
        near[: ends[0]],
        {
            chain: Shown(
                {
                    stage: read_images(samples_path(chain, stage, results))[0][:SCORED]
                    for stage in params.chains[chain].stages
                }
                | _without_views(params, chain, results),
                near[start:end],
                _sample_bits(params, chain, slices.digest, results, place),
                _tags(params, chain, _sampled_labels(params, chain)),
                _real_bits(params, chain, results)[chosen.numpy()],  # a tensor of one element would be an integer
                _tags(params, chain, slices.labels("test", chosen)),
            )
            for chain, start, end in zip(params.chains, ends, ends[1:], strict=False)
        },
    )


def _sample_bits(
    params: Params, chain: str, digest: str, results: Path, place: torch.device
) -> Float64[np.ndarray, " image"]:
    """Score a chain's first samples, or their codes, by the weights that generated them."""
    names, codes = params.chains[chain].stages, params.codes(chain)
    if codes is not None:
        params, _ = open_slices(params, names[0], codes_path(codes, results))
    generated = read_generated(samples_path(chain, names[-1], results))[0]
    levels = undo_views(generated, params.chains[chain].views, params.sampling.seed)[:SCORED]
    labels, nats = _sampled_labels(params, chain), []
    parts = [load_trained(params, name, digest, checkpoint_path(name, results), place) for name in names]
    for view in params.chains[chain].views or ("identity",):
        reader = ImagesInMemory(apply_view(levels, view), labels)
        nats.append(np.sum([stage_nats(*part, reader, "test", place) for part in parts], axis=0))
    return bits_per_dim(mix_nats(np.stack(nats)), math.prod(levels.shape[1:]))


def _without_views(params: Params, chain: str, results: Path) -> dict[str, Tensor]:
    """Return the finished samples of a mixture of orders, to show beside those of its stages; none of another chain."""
    return {VIEW_UNDONE: finished_samples(params, chain, results)[:SCORED]} if params.chains[chain].views else {}


def finished_samples(params: Params, chain: str, results: Path) -> Tensor:
    """Read a chain's samples; those of a mixture of orders with their views undone."""
    section = params.chains[chain]
    samples, _ = read_images(samples_path(chain, section.stages[-1], results))
    return undo_views(samples, section.views, params.sampling.seed)


def _real_bits(params: Params, chain: str, results: Path) -> Float64[np.ndarray, " image"]:
    """Return the bits/dim of every test image, which were evaluated before."""
    if params.chains[chain].views:
        path = summary_path(chain, results)
        summary = read_json(path)
        return bits_per_dim(load_nats(path.with_name(NATS), summary[FILES][NATS]), summary["num_dims"])
    total, num_dims = np.zeros(()), 0
    for stage in params.chains[chain].stages:
        metrics = read_stage_metrics(params, stage, results)
        total = total + load_nats(stage_folder(stage, results) / NATS, metrics[FILES][NATS])
        num_dims = metrics["num_dims"]
    return bits_per_dim(total, num_dims)


def _sampled_labels(params: Params, chain: str) -> Labels | None:
    """Return what a chain's first samples were conditioned on: classes, or the tokens of a caption."""
    count = min(SCORED, params.sampling.num_images)
    return sample_labels(count, params.num_classes(chain), sampled_label(params, chain))


def _tags(params: Params, chain: str, labels: Labels | None) -> tuple[str, ...]:
    """Say what each image is conditioned on; nothing for a chain that is conditioned on nothing."""
    if labels is None or not params.num_classes(chain):
        return ()
    if labels.ndim > 1:
        return (str(params.sampling.caption),) * len(labels)
    return tuple(class_text(params, int(label)) for label in labels)
