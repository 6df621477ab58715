"""Makes the codes of all images under a trained first stage, and says how well it reconstructs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from spn.config import Params
from spn.data.hdf5 import SliceFile
from spn.data.layout import SPLITS, Layout, Split
from spn.data.writing import SliceWriter, create_slices
from spn.distributed import collect, is_first, joined, num_processes, rank
from spn.files import write_bytes, write_json
from spn.first_stages import KEPT, MEASURED, SplitFigures, VqAutoencoder, distortion
from spn.image import join_slices
from spn.notes import FILES, RECIPE, TRAINED, file_digests, weights_digest
from spn.paths import CODES, METRICS, RECONSTRUCTIONS
from spn.pipeline.names import check_first_stage
from spn.pipeline.place import choose_device
from spn.provenance import codes_recipe, load_verb, recipe_digest
from spn.report.pictures import draw_grid, evenly_spaced
from spn.seeds import seeded
from spn.trained import load_first_stage

BATCH_SIZE = 64
SHOWN = 8
"""Number of test images in the picture, each above its reconstruction."""

Images: TypeAlias = UInt8[Tensor, "image height width channel"]
Codes: TypeAlias = UInt8[Tensor, "image row column 1"]


def extract_codes(
    params: Params,
    first_stage: str,
    data: Path,
    checkpoint: Path,
    output: Path,
    *,
    device: str = "auto",
    threads: int = 1,
) -> Path | None:
    """Write the codes of all images, the figures of the test split, and a picture of reconstructions to `output`.

    The notes of the codes have the distortion of noised codes, which decides spaced schedules. Returns the path of the
    codes, or None in all processes but the first. Raises InputError if the data or the checkpoint do not match
    `params`.
    """
    check_first_stage(params, first_stage)
    place = choose_device(device, threads)
    section = params.first_stages[first_stage]
    load_verb("extract_codes", section)
    slices = SliceFile(data)
    recipe = codes_recipe(params, first_stage, slices.digest)
    weights = {first_stage: weights_digest(checkpoint)}
    _, model = load_first_stage(params, first_stage, slices.digest, checkpoint, place)
    layout = Layout(1, params.code_cuts(first_stage), params.grid_of_codes(first_stage).shape)
    counts = {split: slices.num_images(split) for split in SPLITS}
    labelled = {split for split in SPLITS if slices.labels(split, torch.arange(0)) is not None}
    with joined(recipe_digest(recipe)), _first_alone(create_slices(output / CODES, layout, counts, labelled)) as writer:
        for split in SPLITS:
            for indices, codes in _together(model, slices, split, place):
                if writer:
                    labels = slices.labels(split, indices)
                    writer.append(split, codes.numpy(), None if labels is None else labels.tolist())
        if writer is None:
            return None
        write_json(output / METRICS, _metrics(first_stage, model, slices, place) | {RECIPE: recipe})
        write_bytes(output / RECONSTRUCTIONS, _picture(model, slices, place, params.data.white_level))
        notes = {"kept": KEPT, "distortion": _distortion(model, slices, place)}
        files = file_digests(output, (METRICS, RECONSTRUCTIONS))
        writer.finish(slices.origin, {RECIPE: recipe, TRAINED: weights, FILES: files, **notes}, slices.digest)
    return output / CODES


def _first_alone(writer: AbstractContextManager[SliceWriter]) -> AbstractContextManager[SliceWriter | None]:
    """Return what the first process enters, and nothing in the others."""
    return writer if is_first() else nullcontext()


def _together(
    model: VqAutoencoder, slices: SliceFile, split: Split, place: torch.device
) -> Iterator[tuple[Int64[Tensor, " batch"], Codes]]:
    """Yield indices and codes of a split, batch by batch; the processes take turns, and all get all codes."""
    batches = torch.arange(slices.num_images(split)).split(BATCH_SIZE)
    rounds = range(0, len(batches), num_processes())
    for first in tqdm(rounds, desc=f"{split} codes", unit="batch", dynamic_ncols=True, disable=not is_first()):
        mine = [_codes(model, slices, split, place, each)[1] for each in batches[first + rank() : first + rank() + 1]]
        yield from zip(batches[first : first + num_processes()], collect(mine), strict=True)


def _codes(
    model: VqAutoencoder, slices: SliceFile, split: Split, place: torch.device, indices: Int64[Tensor, " batch"]
) -> tuple[Images, Codes]:
    """Return some images and their codes."""
    levels = join_slices(slices.slices(split, indices))
    return levels, model.encode(levels.to(place).long()).cpu().to(torch.uint8)[..., None]


def _encoded(
    model: VqAutoencoder, slices: SliceFile, split: Split, place: torch.device, count: int
) -> Iterator[tuple[Images, Codes]]:
    """Yield the first images of a split and their codes, batch by batch."""
    for indices in torch.arange(min(count, slices.num_images(split))).split(BATCH_SIZE):
        yield _codes(model, slices, split, place, indices)


def _metrics(name: str, model: VqAutoencoder, slices: SliceFile, place: torch.device) -> dict[str, Any]:
    """Return the figures over the whole test split."""
    figures = SplitFigures(1 << slices.bits, model.section.codebook)
    for levels, codes in _encoded(model, slices, "test", place, slices.num_images("test")):
        codes = codes[..., 0].long()
        figures.add(levels, model.decode(codes.to(place)).cpu(), codes)
    return {
        "first_stage": name,
        "split": "test",
        "num_images": slices.num_images("test"),
        "num_codes": model.section.codebook,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **figures.metrics(),
    }


def _picture(model: VqAutoencoder, slices: SliceFile, place: torch.device, white_level: int) -> bytes:
    """Draw evenly spaced test images above their reconstructions."""
    levels, codes = _codes(model, slices, "test", place, evenly_spaced(SHOWN, slices.num_images("test")))
    pairs = torch.cat((levels, model.decode(codes[..., 0].to(place).long()).cpu()))
    return draw_grid(pairs, white_level, columns=len(levels))


def _distortion(model: VqAutoencoder, slices: SliceFile, place: torch.device) -> list[float]:
    """Measure the distortion of noised codes of validation images, or of training images if there are none."""
    split: Split = "validation" if slices.num_images("validation") else "train"
    codes = torch.cat([codes for _, codes in _encoded(model, slices, split, place, MEASURED)])
    return distortion(model, codes[..., 0].to(place).long(), KEPT, seeded("distortion"))
