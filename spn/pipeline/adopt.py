"""Adopts checkpoints of refactored code: gives them the new recipe if evaluating them gives the same nats.

Only code may differ, never parameters or data, because these decide weights. The digest of the data used to cover the
file that a stage read, and covers the images now; either is accepted.
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64

from spn.checkpoint import load_tensors, save_tensors
from spn.config import InputError, Params, StagePlan
from spn.data.digest import listing_sha256
from spn.data.hdf5 import SliceFile
from spn.data.layout import LABELS, SPLITS
from spn.evaluation.evaluate import EVALUATION_BATCH_SIZE, load_nats, stage_nats
from spn.files import read_json
from spn.image import split_bits
from spn.notes import FILES, RECIPE
from spn.paths import NATS, RESULTS, checkpoint_path, metrics_path, stage_folder
from spn.pipeline.names import check_stage
from spn.pipeline.opening import open_slices
from spn.pipeline.place import choose_device
from spn.provenance import (
    Recipe,
    differing_keys,
    git_commit,
    load_verb,
    read_path,
    recipe_digest,
    stage_recipe,
    training_verb,
)
from spn.trained import build_trained

Nats: TypeAlias = Float64[np.ndarray, " image"]

ADOPTED, CODE, DATA = "adopted", "code_digest", "data_digest"
TOLERANCE, ROUNDING = 1e-5, 1e-7
"""Maximum absolute and relative deviation of an image's nats from the stored ones, which are sums of float32."""

ON_TRUST = {
    "train": "that the training step still means the same, which evaluation does not show",
    "tune": "that the training step, validation and the choice among trials still mean the same, which evaluation does "
    "not show",
}
"""The claim that is taken on the caller's word, for a stage without and with trials."""


def adopt(
    params: Params,
    stage: Sequence[str],
    *,
    images: int = 100,
    results: Path = RESULTS,
    device: str = "auto",
    threads: int = 1,
) -> Iterator[str]:
    """Adopt checkpoints: give them the current code's recipe if evaluating them gives the stored nats.

    Evaluates the first `images` of the test split, or all if there are fewer, and compares with the stored nats, image
    by image; where these are a bound, so many more that batches are whole. The checkpoint's notes record the old digest
    of code. Yields a line for each stage. Raises InputError, and leaves the checkpoint unchanged, if anything but code
    differs, or if the nats do.
    """
    place = choose_device(device, threads)
    for name in stage:
        check_stage(params, name)
        load_verb(training_verb(params, name), params.stages[name])
        measured, data = open_slices(params, name, read_path(params, name, results))
        plan = measured.stage_plans[name]
        path = checkpoint_path(name, results)
        weights, notes = load_tensors(path)
        old, new = notes.get(RECIPE) or {}, stage_recipe(measured, name, data.digest)
        if old == new:
            yield f"{name}: already has the current recipe"
            continue
        _check_code_alone_differs(path, old, new, data, plan)
        try:
            trained, model = build_trained(measured, name, weights, place)
        except RuntimeError as error:
            raise InputError(f"{path}: expected the weights of the network that this code builds: {error}") from error
        # The noise of a bound is a function of the batches.
        count = whole_batches(images, len(trained.targets)) if measured.is_bound(name) else images
        kept = _kept_nats(measured, name, old, results)[:count]
        nats = stage_nats(trained, model, data, "test", place, num_images=len(kept))
        difference = _compare(path, nats, kept, place if measured.is_bound(name) else None)
        adopted = {
            CODE: old[CODE],
            DATA: old[DATA],
            "commit": git_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": len(kept),
            "largest_difference": difference,
            "on_trust": ON_TRUST[training_verb(params, name)],
        }
        save_tensors(path, weights, notes | {RECIPE: new, ADOPTED: [*notes.get(ADOPTED, []), adopted]})
        yield (
            f"{name}: adopted from code {old[CODE][:12]}: the nats of {len(kept)} test images differ by at most "
            f"{difference:.2g}; taken on your word: {adopted['on_trust']}"
        )


def whole_batches(images: int, targets: int) -> int:
    """Return the least number of images, at least `images`, whose target slices fill whole batches of evaluation."""
    together = EVALUATION_BATCH_SIZE // gcd(EVALUATION_BATCH_SIZE, targets)
    return -(-images // together) * together


def _compare(path: Path, nats: Nats, kept: Nats, noise_of: torch.device | None) -> float:
    """Return the largest difference of nats; raise InputError, naming the checkpoint, if it is too large.

    `noise_of` is the device of a bound, whose noise depends on the device's kind.
    """
    differences = np.abs(nats - kept)
    if not (differences <= TOLERANCE + ROUNDING * np.abs(kept)).all():
        raise InputError(
            f"{path}: expected the stored nats, image by image, to {TOLERANCE:g}; "
            f"under this code they differ by up to {differences.max():.3g}: "
            + (f"evaluate on the device that made them ({noise_of} draws noise of its own), or " if noise_of else "")
            + "train again"
        )
    return float(differences.max())


def _check_code_alone_differs(path: Path, old: Recipe, new: Recipe, data: SliceFile, plan: StagePlan) -> None:
    if old.get(DATA) not in (None, data.digest) and old[DATA] == _former_digest(data, plan):
        new = new | {DATA: old[DATA]}
    different = differing_keys(new | {CODE: old.get(CODE)}, old)
    if different or CODE not in old:
        raise InputError(
            f"{path}: expected a checkpoint of these parameters and data, because only code is adopted: "
            f"{different[0] if different else 'no recipe inside'}"
        )


def _former_digest(data: SliceFile, plan: StagePlan) -> str:
    """Compute the digest of a stage's data in the earlier format: over the datasets of a file with the stage's cuts."""
    digests: dict[str, Any] = {}
    for split in SPLITS:
        images = torch.arange(data.num_images(split))
        ranges = [hashlib.sha256() for _ in pairwise(plan.cuts)]
        for batch in images.split(EVALUATION_BATCH_SIZE):
            for digest, levels in zip(ranges, split_bits(data.slices(split, batch), plan.cuts), strict=True):
                digest.update(levels.contiguous().numpy().data)
        names = (f"{split}/bits_{start}_{end}" for start, end in pairwise(plan.cuts))
        digests |= dict(zip(names, ranges, strict=True))
        if (labels := data.labels(split, images)) is not None:
            digests[f"{split}/{LABELS}"] = hashlib.sha256(labels.numpy().data)
    return listing_sha256((name, digest.hexdigest()) for name, digest in sorted(digests.items()))


def _kept_nats(params: Params, stage: str, old: Recipe, results: Path) -> Nats:
    """Read the nats of each test image, stored when the checkpoint was evaluated; those of a bound of equal draws."""
    path = metrics_path(stage, results)
    metrics = read_json(path)
    if metrics.get(RECIPE, {}).get("training") != recipe_digest(old):
        raise InputError(f"{path}: expected the figures of the checkpoint beside it, got those of another training")
    noise = params.stage_plans[stage].noise
    if noise and (drawn := metrics[RECIPE]["draws"]) != noise.draws:
        raise InputError(
            f"stages.{stage}.diffusion.draws: expected {drawn}, of which {path} has the bound to compare with, got "
            f"{noise.draws}"
        )
    return load_nats(stage_folder(stage, results) / NATS, metrics[FILES][NATS])
