"""Samples one stage of a chain, given the samples of the stage before."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import UInt8
from torch import Tensor

from spn.config import InputError, Params
from spn.data.images import read_generated, write_images
from spn.distributed import is_first, joined
from spn.files import json_digest, write_bytes, write_json
from spn.generation import SAMPLERS, sample_chain_stage
from spn.generation.sample import SAMPLING_BATCH_SIZE, sample_labels
from spn.notes import FILES, RECIPE, TRAINED, Notes, content_digest, read_notes, same_weights, weights_digest
from spn.paths import PICTURE, SAMPLES, TIMING
from spn.pipeline.names import check_stage
from spn.pipeline.opening import open_slices
from spn.pipeline.place import choose_device
from spn.provenance import (
    SamplingOptions,
    check_recipe,
    load_verb,
    recipe_digest,
    sampled_label,
    sampling_recipe,
)
from spn.report.pictures import class_columns, draw_grid
from spn.trained import load_first_stage, load_trained


def sample_stage(
    params: Params,
    chain: str,
    stage: str,
    data: Path,
    checkpoint: Path,
    output: Path,
    given: Path | None = None,
    decoder: Path | None = None,
    *,
    only: int | None = None,
    caption: str | None = None,
    exact: bool = False,
    sampler: str = "cached",
    batch_size: int | None = None,
    device: str = "auto",
    threads: int = 1,
) -> UInt8[Tensor, "image height width channel"] | None:
    """Sample one stage of a chain, given the samples of the stage before, and time it.

    `given` is the file of those samples, `decoder` the checkpoint of the first stage whose codes the chain generates;
    `only` is the class of all images, instead of sampling.class, or `caption` their caption; `exact` computes in
    float64. Writes samples.h5, samples.png and timing.json to `output` and returns the images, as levels; returns None
    in all processes but the first. Raises InputError if an argument does not match `params`.
    """
    check_stage(params, stage, chain)
    place = choose_device(device, threads)
    load_verb("sample_stage", params.stages[stage])
    if sampler not in SAMPLERS:
        raise InputError(f"--sampler: expected one of {', '.join(SAMPLERS)}, got {sampler}")
    options = SamplingOptions(only, caption, exact)
    told = sampled_label(params, chain, only, caption)
    params, slices = open_slices(params, stage, data)
    digest = slices.digest
    check_given(params, chain, stage, digest, given, options)
    recipe = sampling_recipe(params, chain, stage, digest, options)
    before, notes = read_generated(given) if given else (None, {})
    if notes and recipe_digest(notes[RECIPE]) != recipe["given"]:
        raise InputError(f"{given}: changed while it was read; run the same command again")
    made_with: dict[Path, Notes] = {data: slices.notes, checkpoint: {TRAINED: {stage: weights_digest(checkpoint)}}}
    if given is not None:
        made_with[given] = notes
    if decoder is not None:
        made_with[decoder] = {TRAINED: {str(params.codes(chain)): weights_digest(decoder)}}
    weights = same_weights(made_with)
    trained, model = load_trained(params, stage, digest, checkpoint, place)
    decode = load_decoder(params, chain, digest, decoder, place)
    labels = sample_labels(params.sampling.num_images, params.num_classes(chain), told)
    with joined(recipe_digest(recipe)):
        started = time.monotonic()
        generated = sample_chain_stage(
            trained,
            model.double() if exact else model,
            before,
            num_images=params.sampling.num_images,
            seed=params.sampling.seed,
            temperature=params.chains[chain].temperature_of(stage),
            top_k=params.chains[chain].top_k.get(stage),
            batch_size=SAMPLING_BATCH_SIZE if batch_size is None else batch_size,
            sampler=sampler,
            labels=labels,
        )
        seconds = time.monotonic() - started
        if not is_first():
            return None
    images = decode(generated)
    codes = None if params.codes(chain) is None else generated
    # A caption that is no class's name gives images no class.
    classes = labels if labels is not None and labels.ndim == 1 else None
    picture = draw_grid(images, params.data.white_level, class_columns(classes))
    made = {RECIPE: recipe, TRAINED: weights}
    write_images(output / SAMPLES, images, made | {FILES: {PICTURE: content_digest(picture)}}, classes, codes)
    write_bytes(output / PICTURE, picture)
    timing = {"images": len(images), "seconds": seconds, "device": str(place), "samples": json_digest(made)}
    write_json(output / TIMING, timing)
    return images


Images: TypeAlias = UInt8[Tensor, "image height width channel"]


def load_decoder(
    params: Params, chain: str, digest: str, decoder: Path | None, place: torch.device
) -> Callable[[Images], Images]:
    """Return what turns the levels that a chain generates into images; raise InputError without a decoder of codes."""
    codes = params.codes(chain)
    if codes is None:
        if decoder is not None:
            raise InputError(f"--decoder: expected nothing for chain {chain}, which generates pixels, got {decoder}")
        return lambda images: images
    if decoder is None:
        raise InputError(f"--decoder: expected the checkpoint of {codes}, whose codes chain {chain} generates")
    _, model = load_first_stage(params, codes, digest, decoder, place)
    return lambda levels: torch.cat(
        [model.decode(each[..., 0].to(place).long()).cpu() for each in levels.split(SAMPLING_BATCH_SIZE)]
    )


def check_given(
    params: Params, chain: str, stage: str, digest: str, given: Path | None, options: SamplingOptions
) -> None:
    """Raise InputError unless `given` has just the samples that the stage before made for this chain.

    They must be made under these parameters and options, by stages that were trained on the data of this digest.
    """
    stages = params.chains[chain].stages
    before = stages[: stages.index(stage)][-1:]
    if not before:
        if given is not None:
            raise InputError(f"--given: expected nothing for {stage}, the first stage of chain {chain}, got {given}")
        return
    if given is None:
        raise InputError(f"--given: expected the samples of {before[0]}, after which {stage} comes in chain {chain}")
    recipe = read_notes(given).get(RECIPE) or {}
    for key, expected in (("chain", chain), ("stage", before[0])):
        if recipe.get(key) != expected:
            raise InputError(f"{given}: expected samples of {key} {expected}, got {recipe.get(key)}")
    check_recipe(given, sampling_recipe(params, chain, before[0], digest, options), recipe)
