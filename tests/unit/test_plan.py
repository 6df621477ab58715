"""The plan against hand counts, the real hooks of autograd and real optimisers; and `spn plan` on every preset."""

import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import tiny_params, write_params
from made_up_machine import PLENTY, SPEEDS, machine
from ruamel.yaml import YAML
from torch import Tensor

from spn.cli import main
from spn.config import Params, PixelCnnPpSection, load_params
from spn.models import num_parameters
from spn.planning import StageForecast, forecast, plan_json, plan_table, warnings
from spn.planning.cost import forward_flops, sampling_work, step_cost
from spn.planning.images import count_images
from spn.planning.probe import Speed, fit_speed
from spn.planning.step import Step
from spn.planning.work import Tally, Work, imagined
from spn.stages import Stage

# One worker makes the forecast.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("plan")]

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "presets" / "photos.yaml"
CPU = torch.device("cpu")


def tiny(**changes: Any) -> Params:
    params = tiny_params()
    for stage in params["stages"].values():
        stage["training"] |= changes
    return Params.model_validate_json(json.dumps(params))


def stage_of(params: Params, name: str) -> Stage:
    return Stage(params.stage_plans[name], params.data.shape)


def shallow(path: Path) -> Params:
    """Read a preset, all of it but the number of layers: every kernel is counted, which takes its time."""
    raw = load_params(path).model_dump(mode="json", by_alias=True, exclude_unset=True)
    for stage in raw["stages"].values():
        stage["model"] |= {"transformer_layers": 1, "pixelcnn_layers": 2, "embedder_layers": 1}
    return Params.model_validate_json(json.dumps(raw))


def test_flops_are_those_of_a_hand_count() -> None:
    # The stage `raster` of the tiny experiment: 8x8 pixels of one channel, 32 levels, no context; all widths are 8.
    params = tiny()
    stage, section = stage_of(params, "raster"), params.stages["raster"]
    pixels, width, levels = 64, 8, 32
    entry = 2 * width  # the level and whether it is there
    attention = width * 3 * width + width * width
    mlp = 2 * width * 4 * width
    gates = 2 * width
    first = 6 * 2 * gates + 2 * gates + gates * gates + width * gates + width * width  # mask A: the left taps alone
    second = 6 * width * gates + 2 * width * gates + gates * gates + width * gates + width * width
    head = width * width + width * levels
    taps = entry + attention + mlp + first + second + head
    pairs = pixels * (pixels + 1) // 2
    by_hand = 2 * taps * pixels + 2 * 2 * width * pairs
    assert forward_flops(stage, section, step_cost(stage, section, 8), 8) == by_hand


@pytest.fixture(scope="module")
def stages() -> list[StageForecast]:
    """The forecast of the tiny experiment, which takes seconds."""
    return forecast(tiny(), SPEEDS, {"test": 10}, PLENTY)


def test_the_plan_as_json_has_every_figure_as_it_is(stages: list[StageForecast]) -> None:
    *others, low = stages
    low = replace(low, seconds=replace(low.seconds, evaluate=None))
    read = json.loads(plan_json([*others, low]))["stages"]
    assert list(read) == ["raster", "high", "low"]
    assert read["low"]["seconds"] == {
        "train": low.seconds.train,
        "extract_codes": None,
        "evaluate": None,
        "sample_stage": low.seconds.sample_stage,
    }
    assert read["high"]["seconds"]["evaluate"] == others[1].seconds.evaluate
    assert (read["low"]["step"]["peak"], read["low"]["num_parameters"]) == (low.step.peak, low.num_parameters)


def test_flops_of_lower_resolutions_are_counted_at_their_size() -> None:
    params = tiny()
    stage, section = stage_of(params, "raster"), params.stages["raster"]
    filters, pixels, mixtures = 6, 64, 2
    model = PixelCnnPpSection(family="pixelcnn_pp", filters=filters, resnets=1, mixtures=mixtures)
    section = section.model_copy(update={"model": model})
    start = 2 * filters * (6 + 3 + 2)  # the level and a one, under kernels of 2x3, 1x3 and 2x1
    u, ul = (taps * (2 * filters * filters + 2 * filters * 2 * filters) for taps in (6, 4))
    up = u + ul + 2 * filters * filters
    down = u + 2 * filters * filters + ul + 4 * filters * filters
    into = 10 * filters * filters  # at the lower resolution
    out = 10 * filters * filters  # a product for every pixel that goes in
    head = filters * 3 * mixtures
    lowest = up + down
    half = up + 2 * down + (into + out + lowest) / 4
    full = start + up + 2 * down + (into + out + half) / 4 + head
    assert forward_flops(stage, section, step_cost(stage, section, 8), 8) == 2 * pixels * full


def test_what_is_counted_is_what_matrix_products_cost() -> None:
    with imagined():
        left, right = torch.empty(3, 5), torch.empty(5, 7)
        with Tally() as tally:
            product = left @ right
            held = tally.held_bytes
            del product
    assert tally.work == Work(flops=2 * 3 * 5 * 7, calls=1, bytes=4 * (15 + 35 + 21))
    assert (held, tally.held_bytes, tally.peak_bytes) == (4 * 21, 0, 4 * 21)


def test_one_channel_has_no_dead_taps() -> None:
    params = tiny()
    for name in params.stage_plans:
        stage, section = stage_of(params, name), params.stages[name]
        step = step_cost(stage, section, 8)
        executed = step.forward.flops // 8
        live = forward_flops(stage, section, step, 8)
        # Mask A of the first layer is made dense: what it does not see is multiplied by zeros.
        assert live <= executed <= 1.05 * live


@pytest.mark.parametrize("name", ["raster", "low"])
def test_kept_memory_is_what_autograd_keeps(name: str) -> None:
    params = tiny()
    stage, section = stage_of(params, name), params.stages[name]
    step = Step(stage, section, 32, CPU)
    own = {parameter.untyped_storage().data_ptr() for parameter in step.model.parameters()}
    kept: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> "Kept":
        kept.add(saved := Kept(tensor))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = step.loss()
    storages = {saved.tensor.untyped_storage().data_ptr(): saved.tensor.untyped_storage() for saved in kept}
    real = sum(storage.nbytes() for place, storage in storages.items() if place not in own)
    assert step_cost(stage, section, 32).activations == pytest.approx(real, rel=0.01)
    del loss


class Kept:
    """A tensor for as long as autograd keeps it: what leads to nothing is dropped before the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # with its history, a result would keep itself


@pytest.mark.parametrize(
    "optimiser",
    [
        {"name": "adamw", "learning_rate": 0.01},
        pytest.param({"name": "rmsprop", "learning_rate": 0.01, "momentum": 0.0}),
        pytest.param({"name": "rmsprop", "learning_rate": 0.01, "momentum": 0.9}),
    ],
)
def test_the_optimisers_memory_is_that_of_its_state(optimiser: dict[str, Any]) -> None:
    params = tiny(optimiser=optimiser)
    stage, section = stage_of(params, "low"), params.stages["low"]
    step = Step(stage, section, 2, CPU)
    step.update(step.loss())
    cost = step_cost(stage, section, 2)
    state = sum(value.nbytes for each in step.optimiser.state.values() for value in each.values())
    weights = sum(parameter.nbytes for parameter in step.model.parameters())
    assert cost.optimiser == state
    assert cost.gradients == weights
    # Buffers are averaged and stored too.
    assert weights <= cost.weights == cost.average <= 1.01 * weights
    assert cost.peak > cost.weights + cost.average + cost.optimiser + cost.activations


def test_large_batches_are_extrapolated_exactly() -> None:
    params = shallow(PHOTOS)
    stage, section = stage_of(params, "low"), params.stages["low"]
    # 256 pixels a slice: 8 and 16 slices are counted.
    one, two, four = (step_cost(stage, section, size) for size in (8, 16, 32))
    assert four.work.flops == 2 * two.work.flops == 4 * one.work.flops
    assert four.activations - two.activations == 2 * (two.activations - one.activations)
    real = Step(stage, section, 32, CPU)
    with Tally() as counted:
        real.update(real.loss())
    assert four.work.flops == counted.work.flops


def test_recomputing_keeps_less_and_does_more() -> None:
    params = shallow(PHOTOS)
    stage, section = stage_of(params, "low"), params.stages["low"]
    keeping, recomputing = (step_cost(stage, section, 16, recompute) for recompute in (False, True))
    assert recomputing.activations < keeping.activations / 2
    assert recomputing.work.flops > keeping.work.flops


def test_sampling_costs_about_a_forward_pass_a_slice() -> None:
    params = tiny()
    stage, section = stage_of(params, "low"), params.stages["low"]
    step = step_cost(stage, section, 16)
    walked = sampling_work(stage, section, 16).flops
    assert walked == pytest.approx(16 * forward_flops(stage, section, step, 16), rel=0.1)


def test_a_forecast_names_what_the_configuration_says(stages: list[StageForecast]) -> None:
    params = tiny()
    assert [stage.name for stage in stages] == list(params.stage_plans)
    for stage in stages:
        shape = stage_of(params, stage.name).shape
        assert stage.num_parameters == num_parameters(params.stages[stage.name].model, shape)
        assert stage.training_flops == 3 * stage.forward_flops // stage.num_slices
        assert (stage.num_pixels, stage.num_sub_pixels) == (64, 64)
        assert stage.batch_size == stage.fitting_batch_size == 8
        assert stage.seconds.evaluate is not None
    assert [stage.num_slices for stage in stages] == [1, 4, 4]
    assert warnings(params, stages, machine()) == []


def test_training_that_will_not_fit_is_warned_of() -> None:
    params = tiny()
    peaks = [step_cost(stage_of(params, name), params.stages[name], 8).peak for name in params.stage_plans]
    memory = max(peaks) - 1
    stages = forecast(params, SPEEDS, {}, memory)
    (line,) = warnings(params, stages, machine(memory))
    (tight,) = [stage for stage in stages if stage.step.peak > memory]
    assert line.startswith(f"warning: stages.{tight.name}: training needs ")
    assert "batch_size to at most 7" in line
    assert "--recompute" in line
    assert "train with --micro-batch" in line
    assert f"scale_factor above {params.stages[tight.name].scale_factor}" in line
    section = params.stages[tight.name]
    assert step_cost(stage_of(params, tight.name), section, tight.fitting_batch_size).peak <= memory


def test_a_network_too_large_for_any_batch_is_told() -> None:
    raw = tiny_params()
    raw["stages"], raw["chains"] = {"raster": raw["stages"]["raster"]}, {"raster": {"stages": ["raster"]}}
    params = Params.model_validate_json(json.dumps(raw))
    (stage,) = forecast(params, SPEEDS, {}, 1000)
    assert stage.seconds.evaluate is None  # as nobody knows of how many images
    (line,) = warnings(params, [stage], machine(1000))
    assert "not even a batch_size of 1 fits" in line


def test_a_speed_is_found_again() -> None:
    true = Speed(per_flop=1e-11, per_call=2e-5, per_byte=3e-10)
    works = [Work(10**6, 900, 10**6), Work(10**9, 900, 10**8), Work(10**10, 900, 10**8), Work(10**9, 1, 10**6)]
    found = fit_speed([(work, true.seconds(work)) for work in works])
    for work in works:
        assert found.seconds(work) == pytest.approx(true.seconds(work), rel=1e-6)
    # Rounding must not make a cost negative, whatever was measured.
    odd = fit_speed([(works[0], 1.0), (works[1], 0.1), (works[2], 0.2)])
    assert min(odd.per_flop, odd.per_call, odd.per_byte) >= 0


def test_images_are_counted_where_they_are_known(tmp_path: Path) -> None:
    assert count_images(tiny(), tmp_path) == {"train": 100, "validation": 12, "test": 10}
    photos, cifar10 = (load_params(ROOT / "presets" / f"{name}.yaml") for name in ("photos", "cifar10"))
    assert count_images(photos, tmp_path) == {"train": 5300, "validation": 900, "test": 900}
    assert count_images(cifar10, tmp_path) == {"train": 45_000, "validation": 5000, "test": 10_000}


def test_a_preprocessed_file_knows_best(tmp_path: Path) -> None:
    params = write_params(tmp_path, tiny_params() | {"data": tiny_params()["data"] | {"limit": {"test": 7}}})
    output = tmp_path / "data" / "digits" / "S2.h5"
    assert main(["preprocess", "--params", str(params), "--scale-factor", "2", "--output", str(output)]) == 0
    assert count_images(tiny(), tmp_path / "data") == {"train": 1757, "validation": 20, "test": 7}


def test_a_preset_is_planned() -> None:
    params = shallow(PHOTOS)
    images = count_images(params, Path("nowhere"))
    stages = forecast(params, SPEEDS, images, 16 << 30)
    table = plan_table(params, stages, images, machine())
    lines = table.splitlines()
    for name in params.stage_plans:
        assert sum(line.startswith(f"{name} ") for line in lines) == 3
    for name, chain in params.chains.items():
        (sizes, times) = (line for line in lines if line.startswith(f"chain {name} "))
        parts = [stage for stage in stages if stage.name in chain.stages]
        assert f" {sum(stage.num_parameters for stage in parts):,} " in sizes
        assert f" {sum(stage.num_sub_pixels for stage in parts):,} " in sizes
        assert (" - " in times) == ("test" not in images)


def test_the_largest_stage_of_the_presets_is_planned_in_little_memory(tmp_path: Path) -> None:
    params = YAML(typ="safe", pure=True).load(ROOT / "presets" / "celeba_hq256.yaml")
    params["stages"] = {"stage": params["stages"]["rest"] | {"slices": "all"}}
    params["chains"] = {"stage": {"stages": ["stage"]}}
    path = write_params(tmp_path, params)
    # The process says itself what it held at most: what the system says of children counts the parent's memory too.
    program = "from spn.cli import main; main(); print(open('/proc/self/status').read())"
    run = subprocess.run(
        [sys.executable, "-c", program, "plan", "--params", path],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "chain stage" in run.stdout
    assert "estimates for this machine" in run.stdout
    (held,) = (int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("VmHWM"))
    # In kB; 160 million parameters alone are 0.6 GB.
    assert held < 1.5e6
