"""Recipes of a small experiment, stated by hand: whoever changes one makes stale what others have made."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from experiment import write_params
from fabricated import DIGEST, made_params
from perturbed import bases
from source_files import data_section

from spn.config import InputError, Params, PixelSnailSection, StageSection, load_params
from spn.provenance import (
    Recipe,
    SamplingOptions,
    codes_recipe,
    differing_keys,
    evaluation_recipe,
    export_recipe,
    load_verb,
    record_recipe,
    report_recipe,
    sampled_label,
    sampling_recipe,
    slices_recipe,
    stage_recipe,
    summary_recipe,
)
from spn.provenance.code import code_digest
from spn.provenance.recipes import verb_digest

LIMIT = {"train": 9, "validation": None, "test": 2}
DATA = {
    "source": "arrays",
    "name": "made",
    "bits": 5,
    "split_seed": 7,
    "limit": LIMIT,
    "size": 8,
    "channels": 1,
    "validation": 2,
    "test": 3,
    "first_label": 0,
    "release": "made here",
}
"""All of the section that decides images."""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.setattr(
        "spn.provenance.recipes.verb_digest", lambda verb, section=None: f"{verb}, {getattr(section, 'kind', None)}"
    )
    limit = {split: count for split, count in LIMIT.items() if count}
    raw = made_params(split_seed=7, limit=limit, test=3, num_classes=6, first_label=0, source_digest="5" * 64)
    raw["stages"]["low"]["class_conditional"] = True
    raw["chains"]["depth"]["temperature"] = {"high": 0.9, "low": 0.8}
    raw["sampling"] |= {"num_images": 4, "seed": 2, "class": 3}
    return load_params(write_params(tmp_path, raw))


def digest(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def test_slices_are_made_from_a_scale_factor_its_cuts_and_the_data_section(params: Params) -> None:
    assert slices_recipe(params, 2) == {
        "scale_factor": 2,
        "cuts": [0, 2, 5],
        "data": DATA | {"num_classes": 6},
        "code_digest": "preprocess, None",
    }


def test_weights_are_made_from_a_stage_and_its_data(params: Params) -> None:
    assert stage_recipe(params, "low", "2" * 64) == {
        "stage": "low",
        "seed": 1,
        "plan": {
            "scale_factor": 2,
            "slices": "all",
            "bits": [2, 5],
            "num_levels": 8,
            "high_levels": 4,
            "own_mask": 0b111,
            "targets": [[0, 0], [0, 1], [1, 0], [1, 1]],
            "known": [[0b11000, 0b11000], [0b11000, 0b11000]],
            "num_classes": 6,
        },
        "model": {
            "family": "spn",
            "width": 8,
            "heads": 2,
            "transformer_layers": 1,
            "pixelcnn_width": 8,
            "pixelcnn_layers": 2,
            "embedder_layers": 1,
            "embedder_dilation": 1,
            "relative_cells": False,
            "meta_position_units": 8,
            "intensity": "scaled",
            "intensity_units": 4,
            "class_units": 16,
            "context_enters": "both",
            "channel_order": "masks",
            "law": "softmax",
            "mixtures": 10,
            "dropout": 0.1,
        },
        "training": {
            "steps": 6,
            "batch_size": 8,
            "optimiser": {"name": "adamw", "learning_rate": 0.01, "betas": [0.9, 0.99], "weight_decay": 0.0},
            "warmup_steps": 2,
            "schedule": "cosine",
            "decay": 0.999995,
            "clip_norm": 1.0,
            "ema_decay": 0.9,
            "validate_every": 3,
            "precision": "float32",
        },
        "data": DATA,
        "data_digest": "2" * 64,
        "code_digest": "train, cells",
    }


def test_figures_are_made_from_weights_and_their_data(params: Params) -> None:
    assert evaluation_recipe(params, "low", "2" * 64) == {
        "stage": "low",
        "data_digest": "2" * 64,
        "training": digest(stage_recipe(params, "low", "2" * 64)),
        "split": "test",
        "is_bound": False,
        "code_digest": "evaluate, cells",
    }


OPTIONS = {"as configured": SamplingOptions(), "as asked": SamplingOptions(label=4, exact=True)}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_samples_are_made_from_weights_and_the_samples_before(params: Params, options: SamplingOptions) -> None:
    label, exact = (4, True) if options.exact else (3, False)
    shared = {"chain": "depth", "num_images": 4, "seed": 2, "num_classes": 6, "label": label, "exact": exact}
    shared |= {"white_level": 31, "code_digest": "sample_stage, cells"}
    high = shared | {
        "stage": "high",
        "data_digest": DIGEST,
        "training": digest(stage_recipe(params, "high", "2" * 64)),
        "temperature": 0.9,
        "given": None,
    }
    assert sampling_recipe(params, "depth", "high", DIGEST, options) == high
    assert sampling_recipe(params, "depth", "low", DIGEST, options) == shared | {
        "stage": "low",
        "data_digest": DIGEST,
        "training": digest(stage_recipe(params, "low", "2" * 64)),
        "temperature": 0.8,
        "given": digest(high),
    }


def summary(params: Params) -> Recipe:
    stages = {stage: digest(evaluation_recipe(params, stage, "2" * 64)) for stage in ("high", "low")}
    return {"chain": "depth", "stages": stages, "code_digest": "summarise, None"}


def test_a_summary_is_made_from_the_figures_of_its_stages(params: Params) -> None:
    assert summary_recipe(params, "depth", DIGEST) == summary(params)


def test_a_model_file_is_made_from_the_summary_and_what_sampling_needs(params: Params) -> None:
    section = params.chains["depth"]
    assert export_recipe(params, "depth", DIGEST) == {
        "chain": "depth",
        "summary": digest(summary(params)),
        "temperature": section.temperature,
        "top_k": section.top_k,
        "class_names": list(params.data.class_names),
        "licence": params.data.licence,
        "weights": "float32",
        "code_digest": dict.fromkeys(("high", "low"), "export, cells"),
    }


@pytest.mark.parametrize("experiment", [{"uri": "sqlite:///mlflow.db", "id": "1"}, None])
def test_a_record_is_made_from_a_summary_and_samples(params: Params, experiment: dict[str, str] | None) -> None:
    assert record_recipe(params, "depth", DIGEST, experiment) == {
        "chain": "depth",
        "experiment": experiment,
        "summary": digest(summary(params)),
        "samples": {stage: digest(sampling_recipe(params, "depth", stage, DIGEST)) for stage in ("high", "low")},
        "model": digest(export_recipe(params, "depth", DIGEST)),
        "code_digest": "record, None",
    }


def test_the_report_is_made_from_everything(params: Params) -> None:
    assert report_recipe(params, DIGEST) == {
        "data": DATA | {"num_classes": 6},
        "num_real_images": 4,
        "white_level": 31,
        "images": DIGEST,
        "class_names": [],
        "chains": {chain: digest(summary_recipe(params, chain, DIGEST)) for chain in ("raster", "depth")},
        "stages": {stage: digest(stage_recipe(params, stage, DIGEST)) for stage in ("raster", "high", "low")},
        "samples": {
            "raster": digest(sampling_recipe(params, "raster", "raster", DIGEST)),
            "depth": digest(sampling_recipe(params, "depth", "low", DIGEST)),
        },
        "code_digest": "report, None",
    }


def test_a_class_that_is_asked_for_takes_the_place_of_the_one_configured(params: Params) -> None:
    assert sampled_label(params, "depth") == 3
    assert [sampled_label(params, "depth", label) for label in range(6)] == [*range(6)]
    assert sampled_label(params, "raster") is None
    for chain, label, message in (
        ("depth", 6, "--class: expected one of the classes 0 to 5, got 6"),
        ("depth", -1, "--class: expected one of the classes 0 to 5, got -1"),
        ("raster", 0, "--class: expected a chain with a stage that is class_conditional, got raster"),
    ):
        with pytest.raises(InputError) as refused:
            sampled_label(params, chain, label)
        assert str(refused.value) == message


def test_a_verb_runs_its_own_code_and_what_its_section_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PixelSnailSection(family="pixelsnail", width=8, blocks=1, law="softmax")
    train = ("training/step.py:Learner",)
    chosen = {"kind": "cells", "family": "pixelsnail", "law": "softmax"}
    stage = StageSection.model_construct(scale_factor=1, slices="all", model=model)
    data = data_section(source="digits", name="digits", bits=5, validation=2, test=3)
    preprocess = ("data/preprocess.py:write_slices", "config/data.py:DigitsData")
    assert verb_digest("summarise") == code_digest("pipeline/summarise.py:summarise")
    assert verb_digest("train", stage) == code_digest(*train, **chosen)
    assert verb_digest("preprocess", data) == code_digest(*preprocess, source="digits")
    loaded: list[tuple[tuple[str, ...], dict[str, str]]] = []
    monkeypatch.setattr("spn.provenance.recipes.load_code", lambda *roots, **chosen: loaded.append((roots, chosen)))
    load_verb("summarise")
    load_verb("train", stage)
    load_verb("preprocess", data)
    assert loaded == [(("pipeline/summarise.py:summarise",), {}), (train, chosen), (preprocess, {"source": "digits"})]


DIFFERENCES: list[tuple[Any, Any, list[str]]] = [
    ({"a": 1}, {"a": 1}, []),
    ({"a": 1}, {"a": 2}, ["a: expected 1, got 2"]),
    ({"a": None}, {}, []),
    ({"b": 1}, {"a": 1}, ["a: expected None, got 1", "b: expected 1, got None"]),
    ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ["a.b.c: expected 1, got 2"]),
    ({"a": {"b": 1}}, {"a": 2}, ["a: expected {'b': 1}, got 2"]),
    ({"a": 1}, {"a": {"b": 1}}, ["a: expected 1, got {'b': 1}"]),
    ({"a": 1}, 2, [": expected {'a': 1}, got 2"]),
]


@pytest.mark.parametrize(("expected", "actual", "lines"), DIFFERENCES)
def test_every_difference_is_named_by_its_keys(expected: Any, actual: Any, lines: list[str]) -> None:
    assert differing_keys(expected, actual) == lines


def test_a_stage_of_codes_is_made_from_these_and_a_sample_from_the_top_k() -> None:
    params = bases()["codes"]
    made = stage_recipe(params, "prior", DIGEST)
    assert made["codes"] == digest(codes_recipe(params, "vq", DIGEST)) != digest(codes_recipe(params, "other", DIGEST))
    assert stage_recipe(params, "of_pixels1", DIGEST)["diffusion"]["schedule"]["shares"] == [0.5, 0]
    assert sampling_recipe(params, "of_codes", "of_codes1", DIGEST)["top_k"] == 3
