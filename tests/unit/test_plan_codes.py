"""The plan of first stages and of stages of codes, before there are any codes; and what real tensors and files say."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import codes_params, write_params
from made_up_machine import PLENTY, SPEEDS, machine
from torch import Tensor

from spn.cli import main
from spn.config import FirstStageSection, Params
from spn.data.layout import Split
from spn.first_stages import VqAutoencoder
from spn.planning import StageForecast, forecast, plan_table, warnings
from spn.planning.cost import step_cost
from spn.planning.files import file_sizes
from spn.planning.forecast import _forecast
from spn.planning.step import Step
from spn.stages import build_stage

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
IMAGES: dict[Split, int] = {"train": 100, "validation": 12, "test": 10}
ONLY_TEST: dict[Split, int] = {"test": 10}


def coded(**first_stage: Any) -> Params:
    raw = codes_params()
    raw["first_stages"]["vq"] |= first_stage
    raw["chains"] = {"latent": raw["chains"]["latent"], "raster": {"stages": ["raster"]}}
    return Params.model_validate_json(json.dumps(raw))


@cache
def default() -> Params:
    return coded()


@cache
def default_plan() -> dict[str, StageForecast]:
    return {stage.name: stage for stage in forecast(default(), SPEEDS, IMAGES, PLENTY)}


def test_first_stages_come_first_and_are_trained_and_encoded() -> None:
    params, stages = default(), default_plan()
    assert list(stages) == list(params.trained_plans) == ["vq", "codes2", "codes1", "raster"]
    vq, codes = stages["vq"], stages["codes1"]
    real = VqAutoencoder(params.first_stages["vq"], 1, 32)
    assert vq.num_parameters == sum(each.numel() for each in real.parameters())
    assert (vq.num_slices, vq.num_pixels, codes.num_pixels) == (0, 0, 16)
    assert vq.seconds.train > 0
    assert vq.seconds.extract_codes is not None
    assert (vq.seconds.evaluate, vq.seconds.sample_stage, codes.seconds.extract_codes) == (None, None, None)
    more, unknown = (
        _forecast(params, "vq", SPEEDS, images, PLENTY, recompute=False).seconds.extract_codes
        for images in (IMAGES | {"train": 1000}, ONLY_TEST)
    )
    assert more is not None
    assert more > 2 * vq.seconds.extract_codes
    assert unknown is None


def test_each_draw_of_noise_is_evaluated() -> None:
    stages = default_plan()
    assert stages["codes1"].seconds.evaluate is not None
    once = SPEEDS.training["float32"].seconds(stages["codes1"].step.forward) / stages["codes1"].batch_size
    assert stages["codes1"].seconds.evaluate == pytest.approx(IMAGES["test"] * 8 * once)


def test_the_adversarial_loss_costs_from_its_start_on() -> None:
    half, whole, plain = (
        _forecast(coded(adversarial=each), "vq", SPEEDS, IMAGES, PLENTY, recompute=False).seconds.train
        for each in ({"start": 0.5}, {"start": 0.0}, None)
    )
    assert plain < half < whole
    assert half == pytest.approx((whole + plain) / 2, rel=0.05)  # but for the discriminator's weights


def test_kept_memory_is_what_autograd_keeps() -> None:
    params = default()
    section = params.first_stages["vq"]
    stage = build_stage(params.first_stage_plans["vq"], params.data.shape)
    step = Step(stage, section, 32, CPU)
    own = {tensor.untyped_storage().data_ptr() for tensor in step.model.state_dict().values()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        step.loss()
    real = sum(storage.nbytes() for place, storage in storages.items() if place not in own)
    assert step_cost(stage, section, 32).activations == pytest.approx(real, rel=0.02)


def test_a_first_stage_that_does_not_fit_is_warned_of_without_advice_that_does_not_apply() -> None:
    memory = 1000
    stages = [replace(stage, fitting_batch_size=0) for stage in default_plan().values()]
    lines = warnings(default(), stages, machine(memory))
    assert lines[0].startswith("warning: first_stages.vq: training needs ")
    assert lines[0].endswith("not even a batch_size of 1 fits; narrow the model, or train with --recompute")
    assert lines[1].endswith("narrow the model, or train with --recompute")
    assert lines[-1].endswith("or raise scale_factor above 1 (activations shrink as its square)")


def test_the_table_has_the_first_stage_and_the_files() -> None:
    table = plan_table(default(), list(default_plan().values()), IMAGES, machine())
    assert sum(line.startswith("vq ") for line in table.splitlines()) == 3
    assert "estimated time  train  extract_codes  evaluate  sample_stage" in " ".join(table.splitlines())
    assert "results/stages/vq/codes.h5" in table
    assert str(None) not in table


def test_files_are_as_large_as_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(tmp_path, codes_params())
    monkeypatch.chdir(tmp_path)
    params = default()
    data, folder = "data/digits/S1.h5", "results/stages/vq"
    assert main(["preprocess", "--scale-factor", "1", "--output", data]) == 0
    assert main(["train", "vq", "--data", data, "--output", folder]) == 0
    weights = f"{folder}/checkpoint.safetensors"
    assert main(["extract_codes", "vq", "--data", data, "--checkpoint", weights, "--output", folder]) == 0
    sizes = file_sizes(params, list(default_plan().values()), IMAGES)
    assert sizes[Path(data)] == 122 * 64
    assert sizes[Path(folder, "codes.h5")] == 122 * 16
    for path in (Path(data), Path(folder, "codes.h5"), Path(weights)):
        size = sizes[path]
        assert size is not None
        assert size <= path.stat().st_size < size + 50_000
    assert isinstance(params.trained("vq"), FirstStageSection)
    assert file_sizes(params, [], ONLY_TEST)[Path(data)] is None
