"""The plan for GPUs by their data sheet, which need not be there."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from experiment import tiny_params, write_params
from made_up_machine import PLENTY, SPEEDS

from benchmarks.gpu_rows import wide
from benchmarks.reference import subscale_stage
from spn.cli import main
from spn.config import Params, StageSection
from spn.planning import Speeds, forecast, stated_gpus, warnings
from spn.planning.cost import step_cost
from spn.planning.probe import Speed
from spn.planning.work import Work

ROOT = Path(__file__).parents[2]


def tiny() -> Params:
    return Params.model_validate_json(json.dumps(tiny_params()))


def test_speeds_and_memory_are_shares_of_the_data_sheet() -> None:
    machine = stated_gpus("H100", 1)
    flops, calls, moved = Work(10**15, 0, 0), Work(0, 10**6, 0), Work(0, 0, 10**12)
    half, full = (machine.speeds.training[precision] for precision in ("bfloat16", "float32"))
    assert half.seconds(flops) == pytest.approx(1e15 / (0.7 * 989e12))
    assert full.seconds(flops) == machine.speeds.sampling.seconds(flops) == pytest.approx(1e15 / (0.7 * 67e12))
    for speed in (half, full):
        assert speed.seconds(moved) == pytest.approx(1 / (0.9 * 3.35))
        assert speed.seconds(calls) == pytest.approx(1.2)
    assert machine.memory == 80e9
    assert "measured nowhere" in machine.basis


@pytest.mark.slow
def test_shares_reproduce_the_steps_that_were_measured_on_an_h200() -> None:
    page = (ROOT / "benchmarks" / "H200.md").read_text().split("**Training step**")[0]
    measured = {
        int(width): float(milliseconds)
        for width, milliseconds in zip(
            re.findall(r"width (\d+), 32x32", page), re.findall(r"([\d.]+) ms a step", page), strict=True
        )
    }
    assert len(measured) == 3
    training = tiny_params()["stages"]["raster"]["training"] | {"precision": "bfloat16"}
    for width, milliseconds in measured.items():
        section = StageSection.model_validate_json(
            json.dumps(
                {
                    "scale_factor": 1,
                    "slices": "all",
                    "bits": [0, 8],
                    "model": wide(width).model_dump(mode="json"),
                    "training": training,
                }
            )
        )
        work = step_cost(subscale_stage(32, 1), section, 32_768 // width).work
        forecasted = stated_gpus("H200", 1).speeds.training["bfloat16"].seconds(work)
        assert forecasted * 1e3 == pytest.approx(milliseconds, rel=0.1), width


@pytest.mark.slow
def test_each_of_several_gpus_has_its_share() -> None:
    # Without the cost of calling kernels, everything is linear in the images.
    speed = Speed(per_flop=1e-10, per_call=0.0, per_byte=0.0)
    speeds = Speeds({"float32": speed}, sampling=speed)
    one, four = (forecast(tiny(), speeds, {"test": 10}, PLENTY, num_gpus=count) for count in (1, 4))
    for alone, shared in zip(one, four, strict=True):
        assert (alone.batch_size, shared.batch_size) == (8, 2)
        assert shared.step.activations < alone.step.activations
        assert shared.step.weights == alone.step.weights
        assert shared.seconds.train == pytest.approx(alone.seconds.train / 4, rel=0.01)
        assert (alone.training_flops, alone.num_parameters) == (shared.training_flops, shared.num_parameters)
        assert alone.seconds.evaluate is not None
        assert shared.seconds.evaluate == pytest.approx(alone.seconds.evaluate * 3 / 10, rel=0.01)


@pytest.mark.slow
def test_a_warning_names_the_gpu_and_the_batch_of_all_of_them() -> None:
    params = tiny()
    (largest, *_) = sorted(forecast(params, SPEEDS, {}, PLENTY, num_gpus=4), key=lambda stage: -stage.step.peak)
    machine = replace(stated_gpus("H100", 4), memory=largest.step.peak - 1)
    stages = forecast(params, machine.speeds, {}, machine.memory, num_gpus=4)
    (line,) = warnings(params, stages, machine)
    assert line.startswith(f"warning: stages.{largest.name}: ")
    assert " at batch_size 2 on each of 4 GPUs (" in line
    assert "one H100 has" in line
    assert "set training.batch_size to at most 4, train with --micro-batch 1," in line


@pytest.mark.slow
def test_the_command_prints_what_it_assumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = str(write_params(tmp_path, tiny_params()))
    assert main(["plan", "--params", params, "--gpu", "A100", "--gpus", "2"]) == 0
    shown = capsys.readouterr().out
    assert "batch: the share of one of 2 GPUs." in shown
    assert "times: a forecast for 2 x A100, measured nowhere, from the data sheet: 70% of 312 TFLOP/s" in shown
    assert "this machine" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "H1000"], "spn: error: --gpu: expected one of A100, H100, H200, L40S, RTX4090, got H1000"),
        (["--gpus", "2"], "spn: error: --gpus: expected --gpu with the name of the 2 GPUs, got none"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = str(write_params(tmp_path, tiny_params()))
    assert main(["plan", "--params", params, *options]) == 2
    assert capsys.readouterr().err.strip() == message
