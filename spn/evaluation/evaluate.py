"""Metrics of stages and chains: bits/dim over the whole test split, exact or marked as a bound.

A chain's nats are the sum of its stages'. A bound needs noise, whose generator is seeded by the stage's name and the
batch, so that the figure repeats in one process or several. That of a diffusion is the mean of several draws (Monte
Carlo). The metrics of a bound have the standard error over its draws, None if there is only one.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from spn.config import InputError, Params
from spn.console.bar import SHOWN_AFTER
from spn.data.in_memory import SliceReader
from spn.data.layout import Split
from spn.data.resident import send
from spn.distributed import collect, is_first, share
from spn.files import check_file, write_bytes
from spn.image import join_slices
from spn.likelihood import bits_per_dim
from spn.machine import onednn_matmul
from spn.models import Model
from spn.seeds import derive_seed
from spn.shapes import Labels, Positions, Slices
from spn.stages import Stage

Metrics = dict[str, Any]

EVALUATION_BATCH_SIZE = 128
"""Slices per batch."""


def stage_nats(
    stage: Stage,
    model: Model,
    data: SliceReader,
    split: Split,
    device: torch.device,
    batch_size: int = EVALUATION_BATCH_SIZE,
    num_images: int | None = None,
) -> Float64[np.ndarray, " image"]:
    """Return -log p of the stage's cells for every image of a split, in nats, summed over all slices in float64.

    It is the mean of `stage_draws`, which has the same arguments.
    """
    return stage_draws(stage, model, data, split, device, batch_size, num_images).mean(0)


def stage_draws(
    stage: Stage,
    model: Model,
    data: SliceReader,
    split: Split,
    device: torch.device,
    batch_size: int = EVALUATION_BATCH_SIZE,
    num_images: int | None = None,
) -> Float64[np.ndarray, "draw image"]:
    """Return every draw of the nats of a stage's cells for every image of a split; a single one if nothing is drawn.

    A batch has `batch_size` slices of one or several images. If the model gives a bound, its noise is a function of the
    stage's name, the batches and the kind of device. Several processes (`spn.distributed`) share the batches, and all
    of them get the same nats as one process would. `num_images` limits the evaluation to the first images of the split.
    """
    of_slices = _of_slices(stage, model, data, split, device, batch_size, num_images, type(stage).nats)
    return of_slices.view(-1, len(stage.targets), stage.draws).sum(1).T.numpy()


def sub_pixel_nats(
    stage: Stage,
    model: Model,
    data: SliceReader,
    split: Split,
    device: torch.device,
    batch_size: int = EVALUATION_BATCH_SIZE,
) -> Float64[np.ndarray, "image height width channel"]:
    """Return what every sub-pixel adds to a stage's nats, in the places of the image; 0 in slices of other stages.

    The arguments are those of `stage_draws`, and the sum over an image is what `stage_nats` returns, to rounding.
    """
    of_slices = _of_slices(stage, model, data, split, device, batch_size, None, type(stage).sub_pixel_nats).double()
    of_slices = of_slices.mean(1).unflatten(0, (-1, len(stage.targets)))
    size = stage.plan.scale_factor
    slices = of_slices.new_zeros(len(of_slices), size, size, *of_slices.shape[2:])
    for number, (m, n) in enumerate(stage.targets):
        slices[:, m, n] = of_slices[:, number]
    return join_slices(slices).numpy()


@torch.inference_mode()
def _of_slices(
    stage: Stage,
    model: Model,
    data: SliceReader,
    split: Split,
    device: torch.device,
    batch_size: int,
    num_images: int | None,
    nats: Callable[[Stage, Model, Slices, Positions, Labels | None], Tensor],
) -> Float[Tensor, "slice draw *each"]:
    """Return every draw of the `nats` of every target slice of every image."""
    positions = torch.tensor(stage.targets)
    data = data.of(stage.plan)
    count = data.num_images(split) if num_images is None else num_images
    slices_of_images = torch.arange(count * len(positions))
    name = f"{stage.plan.name} on {split}"
    batches = share(slices_of_images.split(batch_size))
    parts = []
    with torch.random.fork_rng(), onednn_matmul(device):
        for batch in tqdm(
            batches, desc=name, unit="batch", dynamic_ncols=True, delay=SHOWN_AFTER, disable=not is_first()
        ):
            torch.manual_seed(derive_seed("evaluation", stage.plan.name, int(batch[0])))
            image, target = batch // len(positions), batch % len(positions)
            images = send(data.slices(split, image.unique()), device)
            slices = images.index_select(0, send(image - image[0], device))
            labels = data.labels(split, image) if stage.plan.num_classes else None
            labels = None if labels is None else send(labels, device)
            position = send(positions[target], device)
            draws = [nats(stage, model, slices, position, labels) for _ in range(stage.draws)]
            parts.append(torch.stack(draws, dim=1))
    return torch.cat(collect([part.cpu() for part in parts]))


def likelihood_metrics(nats: NDArray[np.float64], num_dims: int) -> Metrics:
    """Return the mean nats per image, the bits/dim of the full image, and its standard error over images."""
    mean = float(nats.mean())
    error = float(nats.std(ddof=1)) / math.sqrt(len(nats)) if len(nats) > 1 else math.nan
    if not math.isfinite(mean):
        raise FloatingPointError(f"expected finite likelihoods, got a mean of {mean} nats")
    return {
        "nats": mean,
        "num_images": len(nats),
        "num_dims": num_dims,
        "bits_per_dim": bits_per_dim(mean, num_dims),
        "standard_error": bits_per_dim(error, num_dims) if len(nats) > 1 else None,
    }


def monte_carlo(draws: Float64[np.ndarray, "draw image"], num_dims: int) -> Metrics:
    """Return the number of draws of a bound, and the standard error of its mean bits/dim over them.

    The error of a single draw is not known: None, as an error left out would be one of 0.
    """
    count, num_images = draws.shape
    if count == 1:
        return {"draws": 1, "standard_error_of_draws": None}
    error = math.sqrt(draws.var(0, ddof=1).sum() / count) / num_images
    return {"draws": count, "standard_error_of_draws": bits_per_dim(error, num_dims)}


def stage_metrics(params: Params, stage: Stage, model: Model, draws: Float64[np.ndarray, "draw image"]) -> Metrics:
    """Make a stage's metrics from its nats for each image of the test split, all draws of them."""
    name = stage.plan.name
    return {
        "stage": name,
        "split": "test",
        "estimate": kind_of_figure([params.is_bound(name)]),
        "conditioning": params.stages[name].conditioning,
        "dims": dims(params.stages[name].codes),
        **likelihood_metrics(draws.mean(0), stage.image_dims),
        **(monte_carlo(draws, stage.image_dims) if params.is_bound(name) else {}),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def kind_of_figure(are_bounds: Iterable[bool]) -> str:
    """Return `bound` (an upper bound) if any of the summed figures is one, else `exact`."""
    return "bound" if any(are_bounds) else "exact"


def conditioning(of_stages: Iterable[str]) -> str:
    """Return `class` if any stage is conditioned on an image's class, else `caption` if any is on that, else `none`."""
    found = set(of_stages)
    return next((each for each in ("class", "caption") if each in found), "none")


def dims(codes: str | None) -> str:
    """Say what `num_dims` counts: sub-pixels, or the codes of a first stage, whose bits are no bits/dim of images."""
    return "sub-pixels" if codes is None else f"codes of {codes}"


def chain_metrics(chain: str, stages: dict[str, tuple[Metrics, NDArray[np.float64]]]) -> Metrics:
    """Make a chain's metrics by adding the nats of its stages, image by image (the chain rule).

    They are a bound, or conditional, if any stage is, and the standard error of draws is not known if that of any stage
    is not. Raises InputError if the stages were evaluated on different images.
    """
    metrics = [metrics for metrics, _ in stages.values()]
    shapes = {(each["num_images"], each["num_dims"], each["split"]) for each in metrics}
    if len(shapes) > 1:
        raise InputError(f"chains.{chain}: expected stages evaluated on the same images, got {sorted(shapes)}")
    nats = np.sum([nats for _, nats in stages.values()], axis=0)
    errors = [each["standard_error_of_draws"] for each in metrics if "draws" in each]
    keep = (
        "estimate",
        "conditioning",
        "dims",
        "bits_per_dim",
        "standard_error",
        "nats",
        "num_parameters",
        "recipe_digest",
    )
    drawn = ("draws", "standard_error_of_draws")
    return {
        "chain": chain,
        "split": metrics[0]["split"],
        "estimate": kind_of_figure(each["estimate"] == "bound" for each in metrics),
        "conditioning": conditioning(each["conditioning"] for each in metrics),
        "dims": metrics[0]["dims"],
        **likelihood_metrics(nats, metrics[0]["num_dims"]),
        # Stages draw independently.
        **({"standard_error_of_draws": None if None in errors else math.hypot(*errors)} if errors else {}),
        "num_parameters": sum(each["num_parameters"] for each in metrics),
        "stages": {
            name: {key: each[key] for key in keep} | {key: each[key] for key in drawn if key in each}
            for name, (each, _) in stages.items()
        },
    }


def save_nats(path: Path, nats: NDArray[np.float64]) -> str:
    """Write nats per image as .npy, by renaming; return the SHA-256 of the file."""
    buffer = io.BytesIO()
    np.save(buffer, nats, allow_pickle=False)
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_nats(path: Path, sha256: str | None) -> NDArray[np.float64]:
    """Read nats that `save_nats` wrote with this SHA-256; raise InputError naming a file that is missing or damaged."""
    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected the nats of each image: {error}") from error
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(
            f"{path}: expected a file of SHA-256 {sha256}, as metrics.json says, got {actual}: damaged; "
            "delete it and run the workflow again"
        )
    return np.load(io.BytesIO(content), allow_pickle=False)
