"""Draws the rest of test images with a chain, given a part of them, and measures how far off it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from spn.api import ChainModel, load
from spn.api.arrays import Images
from spn.api.completion import Drawing, can_deepen, can_upscale, deepen, high_bits, inpaint, scale_factor, upscale
from spn.api.filler import Draws, encode
from spn.config import CompletionSection, Params
from spn.config.tiling import bit_mask
from spn.data.hdf5 import SliceFile
from spn.data.in_memory import ImagesInMemory
from spn.evaluation.evaluate import sub_pixel_nats
from spn.evaluation.inpainting import Mask, absolute_errors, conditional_bits, hidden_half, mean_and_error
from spn.files import write_bytes, write_json
from spn.image import join_slices
from spn.notes import FILES, RECIPE, TRAINED, content_digest
from spn.paths import COMPLETED, METRICS, RESULTS, model_path
from spn.pipeline.names import stages_of
from spn.pipeline.place import choose_device
from spn.pipeline.reading import check_model
from spn.provenance import completion_recipe, load_verb
from spn.report.completed import Given, draw_completed
from spn.shapes import Labels


class Completion(NamedTuple):
    """What a chain draws given a part of images."""

    title: str
    """What is given or hidden."""
    given: Images
    """The given part; grey or black elsewhere."""
    hidden: Mask
    """Which pixels are drawn, in full or in part."""
    drawn: Draws


def complete_chain(
    params: Params,
    chain: str,
    data: Path,
    output: Path,
    *,
    results: Path = RESULTS,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Draw the rest of the first test images given halves of them, slice (0,0) or the high bits, and measure its error.

    `data` is a file of slices of any scale factor. Every chain is given halves, those with the stages for it slice
    (0,0) and high bits. A conditional chain is told each image's class. Writes a picture, with the bits of every pixel
    of the images, and metrics.json to `output`; returns the metrics. Raises InputError if the chain's model file does
    not match `params`.
    """
    place = choose_device(device, threads)
    for name in stages_of(params, chain):
        load_verb("complete_chain", params.stages[name])
    section = params.completion or CompletionSection()
    slices = SliceFile(data)
    check_model(params, chain, slices.digest, results)
    model = load(model_path(chain, results), device=place)
    indices = torch.arange(min(section.num_images, slices.num_images("test")))
    images = join_slices(slices.slices("test", indices))
    labels = slices.labels("test", indices) if params.num_classes(chain) else None
    completions = _complete(model, images, section, labels)
    metrics = {
        "chain": chain,
        "num_images": len(images),
        "draws": section.draws,
        "given": {name: _measure(model, each, images, labels) for name, each in completions.items()},
    }
    shown = [Given(each.title, each.given, each.drawn) for each in completions.values()]
    content = draw_completed(images, shown, _pixel_bits(model, images, labels), params.data.white_level)
    write_bytes(output / COMPLETED, content)
    notes = {
        RECIPE: completion_recipe(params, chain, slices.digest),
        TRAINED: model.notes.get(TRAINED, {}),
        FILES: {COMPLETED: content_digest(content)},
    }
    write_json(output / METRICS, metrics | notes)
    return metrics


def _complete(
    model: ChainModel, images: Images, section: CompletionSection, labels: Labels | None
) -> Mapping[str, Completion]:
    """Draw every completion that the chain has the stages for, by name."""
    how = Drawing(section.draws, section.seed, label=None if labels is None else labels.tolist())
    data, (height, width) = model.params.data, images.shape[1:3]
    found: dict[str, Completion] = {}
    for half in section.masks:
        hidden = hidden_half(half, height, width)
        given = torch.where(hidden[..., None], data.white_level // 2, images).to(torch.uint8)
        drawn = inpaint(model, images, hidden, section.repeats, how)
        found[half] = Completion(f"{half} half hidden", given, hidden, drawn)
    everything = torch.ones(height, width, dtype=torch.bool)
    if can_upscale(model):
        size = scale_factor(model)
        small, hidden = images[:, ::size, ::size], everything.clone()
        hidden[::size, ::size] = False
        given = small.repeat_interleave(size, dim=1).repeat_interleave(size, dim=2)
        found["upscale"] = Completion("slice (0,0)", given, hidden, upscale(model, small, None, how))
    if can_deepen(model):
        bits = high_bits(model)[0]
        given = images & bit_mask((0, bits), data.bits)
        drawn = deepen(model, images, None, how)
        found["deepen"] = Completion(f"{bits} of {data.bits} bits", given, everything, drawn)
    return found


def _measure(model: ChainModel, completion: Completion, images: Images, labels: Labels | None) -> dict[str, Any]:
    """Return the error of what was drawn, and the bits of what is hidden if the chain states them exactly."""
    figures = {"absolute_error": mean_and_error(absolute_errors(completion.drawn, images, completion.hidden))}
    if len(model.stages) == 1 and model.first_stage is None and not model.is_bound:
        ((stage, network),) = model.stages.values()
        classes = None if labels is None else labels.to(model.device)
        bits = conditional_bits(stage, network, images.to(model.device), completion.hidden.to(model.device), classes)
        if bits is not None:
            figures["conditional_bits_per_dim"] = mean_and_error(bits)
    return figures


def _pixel_bits(model: ChainModel, images: Images, labels: Labels | None) -> Float64[np.ndarray, "image row column"]:
    """Return the bits of every pixel, or of every code, summed over channels and stages."""
    reader = ImagesInMemory(encode(model.first_stage, images), labels)
    maps = [sub_pixel_nats(*part, reader, "test", model.device) for part in model.stages.values()]
    bits: Float64[np.ndarray, "image row column"] = np.sum(maps, axis=0).sum(-1) / np.log(2)
    return bits
