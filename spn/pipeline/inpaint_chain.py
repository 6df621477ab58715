"""Fills in hidden pixels of images with a chain, and measures how well."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spn.api.filler import Draws, Filler
from spn.api.pictures import read_mask, read_picture
from spn.config import DataSection, InpaintingSection, InputError, Params
from spn.data.hdf5 import SliceFile
from spn.evaluation.inpainting import (
    HALVES,
    Images,
    Mask,
    absolute_errors,
    conditional_bits,
    hidden_half,
    mean_and_error,
)
from spn.files import write_bytes, write_json
from spn.image import join_slices
from spn.notes import FILES, RECIPE, content_digest
from spn.paths import INPAINTED, METRICS, RESULTS, checkpoint_path
from spn.pipeline.names import stages_of
from spn.pipeline.opening import open_slices
from spn.pipeline.place import choose_device
from spn.provenance import inpainting_recipe, load_verb, read_path, sampled_label
from spn.report.pictures import draw_grid
from spn.shapes import Labels
from spn.trained import load_first_stage, load_trained


def inpaint_chain(
    params: Params,
    chain: str,
    data: Path,
    output: Path,
    *,
    mask: Sequence[str] = (),
    picture: Sequence[Path] = (),
    only: int | None = None,
    caption: str | None = None,
    results: Path = RESULTS,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Fill in hidden pixels of the first test images, or of pictures, and measure how far the result is off.

    `mask` lists halves to hide (upper, lower, left, right) or files of masks, whose pixels that are not black are
    hidden; by default those of params.yaml. `only` is the class of all images, instead of their own, or
    `caption` their caption. Writes inpainted.png and metrics.json to `output`, and returns the metrics. Raises
    InputError if an argument does not match `params`.
    """
    names = stages_of(params, chain)
    place = choose_device(device, threads)
    for name in names:
        load_verb("inpaint_chain", params.stages[name])
    section = params.inpainting or InpaintingSection()
    slices = SliceFile(data)
    images, labels = _test_images(slices, section.num_images)
    if picture:
        images, labels = torch.stack([read_picture(each, params.data) for each in picture]), None
    labels = _labels(params, chain, len(images), labels, sampled_label(params, chain, only, caption))
    masks = {each: _mask(each, params.data) for each in mask or section.masks}
    filler = _load(params, chain, section, slices.digest, results, place)
    columns, found = [images], {}
    for name, hidden in masks.items():
        filled = filler.fill(images, hidden.expand(len(images), -1, -1), section.draws, section.repeats, labels)
        columns += [torch.where(hidden[..., None], params.data.white_level // 2, images).to(torch.uint8), *filled]
        found[name] = _measure(filler, filled, images, hidden, labels)
    content = draw_grid(torch.stack(columns, dim=1).flatten(0, 1), params.data.white_level, len(columns))
    by_hand = {"mask": list(mask), "picture": [str(each) for each in picture], "class": only, "caption": caption}
    is_by_hand = any(each not in ([], None) for each in by_hand.values())
    recipe = inpainting_recipe(params, chain, slices.digest, by_hand if is_by_hand else None)
    metrics = {"chain": chain, "num_images": len(images), "draws": section.draws, "masks": found}
    write_bytes(output / INPAINTED, content)
    write_json(output / METRICS, metrics | {RECIPE: recipe, FILES: {INPAINTED: content_digest(content)}})
    return metrics


def _load(
    params: Params, chain: str, section: InpaintingSection, digest: str, results: Path, place: torch.device
) -> Filler:
    """Load a chain with its trained stages, and its first stage if it generates codes."""
    first_stage, how = None, params.chains[chain]
    if (codes := params.codes(chain)) is not None:
        _, first_stage = load_first_stage(params, codes, digest, checkpoint_path(codes, results), place)
    stages = {}
    for name in how.stages:
        measured, _ = open_slices(params, name, read_path(params, name))
        stages[name] = load_trained(measured, name, digest, checkpoint_path(name, results), place)
    temperatures = {name: how.temperature_of(name) for name in how.stages}
    return Filler(stages, temperatures, how.top_k, first_stage, params.data.white_level // 2, section.seed)


def _measure(filler: Filler, filled: Draws, images: Images, hidden: Mask, labels: Labels | None) -> dict[str, Any]:
    """Return the error of what was filled in, and the bits of what is hidden if the chain states them exactly."""
    figures = {"absolute_error": mean_and_error(absolute_errors(filled, images, hidden))}
    if len(filler.stages) == 1:
        ((stage, model),) = filler.stages.values()
        place = next(model.parameters()).device
        classes = None if labels is None else labels.to(place)
        bits = conditional_bits(stage, model, images.to(place), hidden.to(place), classes)
        if bits is not None:
            figures["conditional_bits_per_dim"] = mean_and_error(bits)
    return figures


def _test_images(slices: SliceFile, count: int) -> tuple[Images, Labels | None]:
    indices = torch.arange(min(count, slices.num_images("test")))
    return join_slices(slices.slices("test", indices)), slices.labels("test", indices)


def _labels(
    params: Params, chain: str, count: int, labels: Labels | None, only: int | Sequence[int] | None
) -> Labels | None:
    """Return the labels of images for a chain that is conditioned on them: `only`, or the images' own classes."""
    if not params.num_classes(chain):
        return None
    if only is not None:
        return torch.tensor([only] * count)
    if labels is None:
        raise InputError(f"--class: expected the class of the pictures, because chain {chain} is conditioned on it")
    return labels


def _mask(text: str, data: DataSection) -> Mask:
    height, width, _ = data.shape
    return hidden_half(text, height, width) if text in HALVES else read_mask(Path(text), height, width)
