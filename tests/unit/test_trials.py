"""Trials of a stage: changes of its training, all of them trained, and the best by its validation estimate taken."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from experiment import tiny_params
from made_up_machine import PLENTY, SPEEDS, machine
from params_file import GONE, Mistakes, as_written, changed, error_of, load, plain
from torch import Tensor

from spn.checkpoint import load_tensors
from spn.config import Params, load_params, params_schema
from spn.data.hdf5 import SliceFile
from spn.data.preprocess import write_slices
from spn.notes import RECIPE, TENSORS_SEAL, Notes, read_tensor_notes
from spn.planning import forecast, plan_table, warnings
from spn.provenance import differing_keys, evaluation_recipe, stage_recipe, trial_recipe
from spn.report.tables import trial_lines
from spn.training import Observe, TerminatedError, lock, train_stage, trainer
from spn.training.history import Row
from spn.training.trials import best_trial

CPU = torch.device("cpu")
ESTIMATE = "validation_bits_per_dim_estimate"
TRIALS: list[dict[str, Any]] = [
    {"optimiser": {"learning_rate": 1e-6}},
    {"optimiser": {"learning_rate": 0.02}, "batch_size": 4},
    {"steps": 4, "optimiser": {"name": "rmsprop", "learning_rate": 1e-5}},
]
"""The second learns, the others hardly."""


# In params.yaml.


def training_of(stage: str, folder: Path, **changes: object) -> list[dict[str, Any]]:
    """Return the trainings of a stage of params.yaml with changes, without what is not stated."""
    section = load(folder, changed(changes, as_written())).stages[stage]
    return [each.model_dump(mode="json", exclude_unset=True) for each in section.trainings]


def test_a_trial_is_merged_with_the_training_of_its_stage(tmp_path: Path) -> None:
    shared = as_written()["defaults"]["training"]
    other = {"name": "rmsprop", "learning_rate": 0.1}
    first, second, third = training_of(
        "low", tmp_path, **{"stages.low.trials": [{"optimiser": {"learning_rate": 0.1}}, {}, {"optimiser": other}]}
    )
    low = shared | {"batch_size": 64}  # as the stage states
    assert first == low | {"optimiser": shared["optimiser"] | {"learning_rate": 0.1}}
    assert second == low
    assert third == low | {"optimiser": other}


def test_trials_of_defaults_are_those_of_every_stage_that_states_none(tmp_path: Path) -> None:
    changes = {"defaults.trials": [{"steps": 5}, {"steps": 6}], "stages.low.trials": [{"steps": 7}, {"steps": 8}]}
    assert [each["steps"] for each in training_of("low", tmp_path, **changes)] == [7, 8]
    (alone,) = training_of("low", tmp_path, **(changes | {"stages.low.trials": []}))
    assert alone["steps"] == 900
    for name, size in {"raster": 32, "subscale": 64}.items():
        trials = training_of(name, tmp_path, **changes)
        assert [(each["steps"], each["batch_size"]) for each in trials] == [(5, size), (6, size)]


def test_a_complete_file_is_the_same_file(tmp_path: Path) -> None:
    params = load(tmp_path, changed({"defaults.trials": TRIALS}, as_written()))
    complete = params.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert load(tmp_path, complete) == params


def test_what_a_trial_changes_is_told() -> None:
    section = tiny(TRIALS).stages["low"]
    assert section.changes(0) == {"optimiser.learning_rate": 1e-6}
    assert section.trial_text(1, " here") == "trial 2 of 3 here: batch_size 4, optimiser.learning_rate 0.02"
    assert section.changes(2).items() >= {"steps": 4, "optimiser.name": "rmsprop"}.items()
    assert tiny([{}, {"steps": 4}]).stages["low"].trial_text(0) == "trial 1 of 2: training as it is"


MISTAKES: Mistakes = {
    "unknown key": (
        {"stages.low.trials": [{}, {"optimiser": {"lerning_rate": 0.1}}]},
        "stages.low.trials.1.optimiser.lerning_rate: unknown key; did you mean learning_rate?",
    ),
    "key of another section": (
        {"stages.low.trials": [{}, {"model": {"width": 3}}]},
        "stages.low.trials.1.model: unknown key; expected one of steps, batch_size, optimiser",
    ),
    "wrong value": (
        {"stages.low.trials": [{"steps": 0}, {}]},
        "stages.low.trials.0.steps: Input should be greater than or equal to 1, got 0",
    ),
    "wrong item": (
        {"stages.low.trials": [{"optimiser": {"betas": [0.1, 2]}}, {}]},
        "stages.low.trials.0.optimiser.betas.1: Input should be less than 1, got 2",
    ),
    "wrong value in defaults": (
        {"defaults.trials": [{"steps": 0}, {}]},
        "defaults.trials.0.steps: Input should be greater than or equal to 1, got 0",
    ),
    "wrong value in training": (
        {"stages.low.trials": [{"steps": 5}, {}], "defaults.training.batch_size": 0},
        "defaults.training.batch_size: Input should be greater than or equal to 1, got 0",
    ),
    "wrong value in the training of a stage": (
        {"stages.low.trials": [{"steps": 5}, {}], "stages.low.training": {"batch_size": 0}},
        "stages.low.training.batch_size: Input should be greater than or equal to 1, got 0",
    ),
    "missing from training": (
        {"stages.low.trials": [{"batch_size": 5}, {}], "defaults.training.steps": GONE},
        "defaults.training.steps: missing",
    ),
    "another optimiser": (
        {"stages.low.trials": [{"optimiser": {"name": "rmsprop"}}, {}]},
        "stages.low.trials.0.optimiser.learning_rate: missing",
    ),
    "no optimiser": (
        {"stages.low.trials": [{}, {"optimiser": {"name": "sgd"}}]},
        "stages.low.trials.1.optimiser.name: expected one of adamw, muon, rmsprop, got sgd",
    ),
    "a single trial": (
        {"stages.low.trials": [{}]},
        "stages.low.trials: expected at least two trials, or none, got one",
    ),
    "no list": ({"stages.low.trials": {"steps": 3}}, "stages.low.trials: Input should be a valid array"),
    "nothing": ({"stages.low.trials": None}, "stages.low.trials: Input should be a valid array"),
    "no section": ({"stages.low.trials": [{}, 3]}, "stages.low.trials.1: Input should be an object, got 3"),
    "the same twice": (
        {"stages.low.trials": [{"steps": 5}, {}, {"steps": 900}]},  # as `defaults` says
        "stages.low.trials: expected trials that differ, got the same for 1 and 2",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_trial_is_told_once_where_it_is_written(name: str, tmp_path: Path) -> None:
    changes, start = MISTAKES[name]
    message = error_of(tmp_path, changed(changes, as_written()))
    assert message.startswith(start)
    assert message.count("(") == message.count("(line 1)") == 1
    assert "; and" not in message
    assert message.count("stages.") + message.count("defaults.") == 1


def test_the_line_of_a_mistake_is_that_of_the_trial(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(plain()).rpartition("}")[::2])
    assert load(tmp_path, text + "}")
    trials = ',\n"trials": [{"steps": 3},\n{"steps": 4,\n"step": 5}]}'
    low = json.dumps(plain()["stages"]["low"])
    message = error_of(tmp_path, json.dumps(plain()).replace(low, low[:-1] + trials))
    assert message == "stages.low.trials.1.step: unknown key; did you mean steps? (line 4)"


@pytest.mark.slow
def test_trials_of_a_large_training_cannot_take_gigabytes(tmp_path: Path) -> None:
    params = as_written()
    params["defaults"]["training"] |= {f"k{index}": 1 for index in range(2000)}
    params["stages"]["low"]["trials"] = [{}] * 2000
    assert error_of(tmp_path, params).startswith("stages: expected at most 100000 values in all trials, got more")


@pytest.mark.slow
def test_dvc_changes_a_value_of_one_trial(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    before = load(tmp_path, changed({"stages.low.trials": [{"steps": 5}, {"steps": 6}]}, as_written())).stages["low"]
    apply_overrides(tmp_path / "params.yaml", ["stages.low.trials.1.steps=16"])
    after = load_params(tmp_path / "params.yaml").stages["low"]
    assert [trial.steps for trial in after.trials] == [5, 16]
    assert after.trials[0] == before.trials[0]


def test_editors_accept_trials(tmp_path: Path) -> None:
    content = as_written()
    content["defaults"]["trials"] = TRIALS
    jsonschema.validate(content, params_schema())
    mistakes: tuple[Any, ...] = ({}, [{}, {"model": {}}], [{}, {"optimiser": {"lerning_rate": 1}}])
    for wrong in mistakes:
        content["defaults"]["trials"] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content, params_schema())


# In recipes.


def tiny(trials: list[dict[str, Any]] | None = None, **training: object) -> Params:
    """Return the tiny experiment, with trials of the stage `low` or another training of it."""
    raw = tiny_params()
    raw["stages"]["low"]["training"] |= training
    if trials is not None:
        base = raw["stages"]["low"]["training"]
        raw["stages"]["low"]["trials"] = [merged(base, trial) for trial in trials]
    return Params.model_validate_json(json.dumps(raw))


def merged(training: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
    """Merge by hand; another optimiser takes nothing."""
    optimiser = trial.get("optimiser", {})
    shared = {} if "name" in optimiser else training["optimiser"]
    return training | trial | {"optimiser": shared | optimiser}


def test_a_recipe_without_trials_has_no_key_for_them() -> None:
    assert "trials" not in stage_recipe(tiny(), "low", "")
    tuned = stage_recipe(tiny(TRIALS), "low", "")
    assert stage_recipe(tiny(TRIALS), "high", "") == stage_recipe(tiny(), "high", "")
    assert tuned.keys() - stage_recipe(tiny(), "low", "").keys() == {"trials"}
    assert [trial["steps"] for trial in tuned["trials"].values()] == [6, 6, 4]


def test_a_changed_trial_makes_the_stage_stale_and_leaves_the_other_trials_as_they_are() -> None:
    before, after = tiny(TRIALS), tiny([*TRIALS[:2], TRIALS[2] | {"steps": 5}])
    assert differing_keys(stage_recipe(after, "low", ""), stage_recipe(before, "low", "")) == [
        "trials.2.steps: expected 5, got 4"
    ]
    assert evaluation_recipe(after, "low", "") != evaluation_recipe(before, "low", "")
    same = [trial_recipe(before, "low", trial, "") == trial_recipe(after, "low", trial, "") for trial in range(3)]
    assert same == [True, True, False]


def test_the_first_new_key_is_told_where_trials_are_added() -> None:
    """Rather than the code of validation, which the recipe has then too, or all trials in one line."""
    first, *_, last = differing_keys(stage_recipe(tiny(TRIALS), "low", ""), stage_recipe(tiny(), "low", ""))
    assert first == "trials.0.batch_size: expected 8, got None"
    assert last.startswith("code_digest: ")


def test_a_trial_has_the_recipe_of_its_training_alone_but_for_the_code_of_validation() -> None:
    alone = stage_recipe(tiny(batch_size=4, optimiser={"name": "adamw", "learning_rate": 0.02}), "low", "")
    trial = trial_recipe(tiny(TRIALS), "low", 1, "")
    assert [line.partition(":")[0] for line in differing_keys(alone, trial)] == ["code_digest"]


# In training.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SliceFile:
    path = tmp_path_factory.mktemp("data") / "S2.h5"
    write_slices(tiny().data, 2, (0, 2, 5), path.parent / "sources", path, progress=False)
    return SliceFile(path)


def trained(params: Params, data: SliceFile, place: Path, **options: Any) -> tuple[dict[str, Tensor], Notes]:
    train_stage(params, "low", data, place / "out", place / "runs", CPU, **options)
    return load_tensors(place / "out" / "checkpoint.safetensors")


def untimed(rows: list[Row]) -> list[Row]:
    return [
        {key: value for key, value in row.items() if key not in {"images_per_second", "training_seconds"}}
        for row in rows
    ]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.slow
def test_the_checkpoint_is_that_of_the_best_trial_alone(data: SliceFile, tmp_path: Path) -> None:
    params = tiny(TRIALS)
    weights, notes = trained(params, data, tmp_path / "tuned")
    alone = tiny(batch_size=4, optimiser={"name": "adamw", "learning_rate": 0.02})
    expected, other = trained(alone, data, tmp_path / "alone")
    assert_same(weights, expected)
    assert untimed(notes["history"]) == untimed(other["history"])
    assert notes["history"] == notes["trials"][1]["history"]
    assert notes["taken"] == 1
    assert notes[RECIPE] == stage_recipe(params, "low", data.digest)
    assert [trial["changes"] for trial in notes["trials"]] == [params.stages["low"].changes(each) for each in range(3)]
    estimates = [trial[ESTIMATE] for trial in notes["trials"]]
    assert estimates == [trial["history"][-1][ESTIMATE] for trial in notes["trials"]]
    assert min(estimates) == estimates[1]
    assert [trial["history"][-1]["step"] for trial in notes["trials"]] == [6, 6, 4]
    assert other.keys() == {RECIPE, "files", "history", TENSORS_SEAL}  # nothing more without trials


@pytest.mark.parametrize(
    ("estimates", "taken"),
    [([3.0, 2.0, 1.0], 2), ([1.0, 2.0, 3.0], 0), ([2.0, 1.0, 1.0], 1), ([float("nan"), 2.0, float("inf")], 1)],
)
def test_the_best_trial_has_the_lowest_estimate(estimates: list[float], taken: int) -> None:
    assert best_trial(estimates) == taken


def test_the_lowest_validation_estimate_decides_and_nothing_else(
    data: SliceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the losses are, of which the second trial has the lowest; and the last estimate, not the lowest."""
    estimates, taken = [3.0, 2.0, 1.0], 2
    trials = [{**trial, "steps": 4, "validate_every": 2} for trial in TRIALS]
    given = iter([value for estimate in estimates for value in (-estimate, estimate)])
    monkeypatch.setattr(trainer, "estimate", lambda *arguments: next(given))
    weights, notes = trained(tiny(trials), data, tmp_path)
    assert notes["taken"] == taken
    states = {
        read_tensor_notes(path)["recipe"]["training"]["optimiser"]["learning_rate"]: load_tensors(path)[0]
        for path in (tmp_path / "runs").glob("*.safetensors")
    }
    state = states[TRIALS[taken]["optimiser"]["learning_rate"]]
    assert_same(weights, {name: state[f"average.{name}"] for name in weights})


class DiedError(Exception):
    """Stands for the process dying where it is raised."""


def dying_at(dead: tuple[int, int], began: list[int]) -> Any:
    """Return a `follow_trial` that notes which trials begin, and dies at a step of one."""

    @contextmanager
    def follow(trial: int) -> Iterator[Observe]:
        began.append(trial)

        def observe(row: Row) -> None:
            if (trial, row["step"]) == dead:
                raise DiedError

        yield observe
        if dead == (trial, -1):
            raise DiedError

    return follow


@pytest.mark.slow
@pytest.mark.parametrize(
    "dead", [(1, 4), *(pytest.param(dead, marks=pytest.mark.slow) for dead in ((1, 6), (0, -1), (2, -1)))]
)
def test_a_killed_job_goes_on_within_its_trial(
    data: SliceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: tuple[int, int]
) -> None:
    params, steps = tiny(TRIALS), list[tuple[str, int]]()
    step = trainer.Trainer.train_step

    def noted(training: trainer.Trainer) -> Any:
        steps.append((training.label, training.state.step))
        return step(training)

    monkeypatch.setattr(trainer.Trainer, "train_step", noted)
    whole, notes = trained(params, data, tmp_path / "whole")
    every = list(steps)
    assert every == [
        (f"low, trial {trial} of 3", each) for trial, last in ((1, 6), (2, 6), (3, 4)) for each in range(last)
    ]
    steps.clear()
    with pytest.raises(DiedError):
        trained(params, data, tmp_path / "killed", follow_trial=dying_at(dead, []))
    assert not (tmp_path / "killed/out").exists()
    began, before = list[int](), list(steps)
    steps.clear()
    weights, others = trained(params, data, tmp_path / "killed", follow_trial=dying_at((9, 9), began))
    assert_same(weights, whole)
    assert others["taken"] == notes["taken"]
    for one, other in zip(others["trials"], notes["trials"], strict=True):
        assert untimed(one["history"]) == untimed(other["history"])
    # Nothing before the last saved state is repeated, above all no finished trial; every trial is told of again.
    assert set(before) | set(steps) == set(every)
    assert {label for label, _ in set(before) & set(steps)} <= {f"low, trial {dead[0] + 1} of 3"}
    assert (len(before) + len(steps) - len(every)) == {(1, 4): 1, (1, 6): 3}.get(dead, 0)
    assert began == [0, 1, 2]


def test_a_trained_checkpoint_is_passed_on_and_trains_nothing(
    data: SliceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, notes = trained(tiny(TRIALS), data, tmp_path)
    monkeypatch.delattr(trainer.Trainer, "advance")
    monkeypatch.setattr("spn.training.train.Trainer", None)
    rows: dict[int | str, list[Row]] = {"stage": []}

    @contextmanager
    def follow(trial: int) -> Iterator[Observe]:
        yield rows.setdefault(trial, []).append

    trained(tiny(TRIALS), data, tmp_path, observe=rows["stage"].append, follow_trial=follow)
    assert rows == {"stage": notes["history"]} | {
        number: trial["history"] for number, trial in enumerate(notes["trials"])
    }


@pytest.mark.slow
def test_another_list_repeats_only_the_trial_that_is_new(
    data: SliceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tiny(TRIALS), data, tmp_path)
    labels = set[str]()
    step = trainer.Trainer.train_step

    def noted(training: trainer.Trainer) -> Any:
        labels.add(training.label)
        return step(training)

    monkeypatch.setattr(trainer.Trainer, "train_step", noted)
    _, notes = trained(tiny([TRIALS[1], {"clip_norm": 0.5}, TRIALS[0]]), data, tmp_path)
    assert labels == {"low, trial 2 of 3"}
    assert notes["taken"] in {0, 1}


def test_sigterm_and_bad_gradients_name_the_trial(
    data: SliceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = trainer.Trainer.train_step

    def interrupted(training: trainer.Trainer) -> Any:
        pending = step(training)
        if training.label == "low, trial 2 of 3" and training.state.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return pending

    monkeypatch.setattr(trainer.Trainer, "train_step", interrupted)
    with pytest.raises(TerminatedError, match=r"^stage low, trial 2 of 3: stopped by SIGTERM and saved after step 3$"):
        trained(tiny(TRIALS), data, tmp_path)
    shown = capsys.readouterr().err.split("\r")
    assert re.match(r"low:   0%.* 0/16 \[", shown[1])
    assert re.match(r"low, trial 2 of 3:  56%.* 9/16 \[", shown[-1])

    def exploding(training: trainer.Trainer) -> Any:
        loss, norm, culprit = step(training)
        return loss, norm + torch.inf, culprit

    monkeypatch.setattr(trainer.Trainer, "train_step", exploding)
    with pytest.raises(FloatingPointError, match=r"^stage low, trial 2 of 3, step 4: expected a finite gradient"):
        trained(tiny(TRIALS), data, tmp_path)
    assert re.match(r"low:  56%.* 9/16 \[", capsys.readouterr().err.split("\r")[1])


def test_two_jobs_never_train_one_trial_at_once(
    data: SliceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of different lists, as when params.yaml is edited while an orphan trains, may share a trial."""
    locked: list[str] = []
    inner = lock.training_lock

    @contextmanager
    def noted(runs: Path, recipe: dict[str, Any]) -> Iterator[None]:
        with inner(runs, recipe):
            locked.append(lock.state_path(runs, recipe).name)
            yield

    monkeypatch.setattr("spn.training.train.training_lock", noted)
    trained(tiny(TRIALS), data, tmp_path)
    assert sorted(locked) == sorted(path.name for path in (tmp_path / "runs").glob("*.safetensors"))


# In forecasts and tables.


@pytest.mark.slow
def test_the_plan_counts_the_steps_of_all_trials() -> None:
    def low(params: Params) -> Any:
        return next(each for each in forecast(params, SPEEDS, {"validation": 12}, PLENTY) if each.name == "low")

    trials = [{"steps": 60}, {"batch_size": 16}]
    tuned, long, wide = low(tiny(trials)), low(tiny(steps=60)), low(tiny(batch_size=16))
    assert tuned.seconds.train == pytest.approx(long.seconds.train + wide.seconds.train)
    assert (tuned.step.peak, tuned.batch_size) == (wide.step.peak, 16)
    assert wide.step.peak > long.step.peak
    assert tuned.seconds.sample_stage == long.seconds.sample_stage


@pytest.mark.slow
def test_the_plan_says_that_it_counts_trials_and_which_batches_do_not_fit() -> None:
    for params, place in (
        (tiny([{"steps": 60}, {"batch_size": 16}]), "batch_size in training and trials"),
        (tiny(), "training.batch_size"),
    ):
        stages = forecast(params, SPEEDS, {}, 0)
        assert ("trials of a stage: " in plan_table(params, stages, {}, machine())) == (params != tiny())
        low = next(each for each in stages if each.name == "low")
        (line,) = [
            each
            for each in warnings(params, forecast(params, SPEEDS, {}, low.step.peak - 1), machine(low.step.peak - 1))
            if "stages.low" in each
        ]
        assert f"at batch_size {low.batch_size} " in line
        assert f"set {place} to at most {low.batch_size - 1}" in line


def test_a_line_tells_which_trial_was_taken() -> None:
    metrics: dict[str, dict[str, Any]] = {
        "depth": {"taken": {"low": 1}},
        "raster": {"taken": {}},
        "other": {"taken": {"low": 1}},
    }
    assert trial_lines(tiny(TRIALS), metrics) == [
        "low: trial 2 of 3 by validation estimate: batch_size 4, optimiser.learning_rate 0.02",
        "training (s) and (images/s) are those of the trials taken, without the others",
    ]
    assert trial_lines(tiny(TRIALS), {"raster": {"taken": {}}}) == []
