"""The MLflow run of a stage: its recipe, curves, weights, and figures on the test split; and the runs of its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mlflow.entities import Metric, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_RUN_NOTE

from spn.config import InputError
from spn.paths import CHECKPOINT
from spn.provenance import Recipe, git_commit, recipe_digest
from spn.tracking.cards import first_stage_card, stage_card
from spn.tracking.delivery import Delivery
from spn.tracking.experiment import Experiment
from spn.tracking.machine import PREFIX, MachineMonitor
from spn.tracking.outage import reaching, say
from spn.tracking.runs import (
    find_run,
    labels,
    log_dataset,
    log_figures,
    log_files,
    log_params,
    milliseconds,
    numbers,
    open_run,
)

PATIENCE = {"FINISHED": 30.0, "FAILED": 2.0, "KILLED": 2.0}
"""Seconds to wait for the store at the end of a training; few if a scheduler may be about to kill the process."""

_BYTES_PER_SECOND = 1e7
"""What the store is trusted to take of the weights, for which the end of a training waits longer."""


@dataclass(frozen=True)
class Trial:
    """A trial of a stage. It belongs to the stage's run: the same training among other trials has another run."""

    stage_run: str
    """The id of the stage's run, below which MLflow shows this one."""
    number: int
    """Its place among the trials, from 0."""
    text: str
    """As `StageSection.trial_text` writes it."""


class StageRun:
    """The MLflow run of a stage or trial, as a context manager; an exception inside marks it as failed or killed.

    Opening it continues the run of the same recipe if there is one, and leaves a finished run unchanged. The store must
    answer at that moment, or TrackingError is raised; later it may be unreachable, and training continues. If rows or
    weights are still unsent at the end, a line says so and `finished` stays False; opening the run again completes it.

    The run keeps a copy of the `checkpoint`, because the next training of the stage under other parameters replaces the
    file. A run that has finished has it whole. With `is_training`, while the run is open the machine is sampled.
    """

    def __init__(
        self,
        experiment: Experiment,
        stage: str,
        recipe: Recipe,
        *,
        num_parameters: int,
        checkpoint: Path | None = None,
        trial: Trial | None = None,
        is_training: bool = False,
    ) -> None:
        self._experiment, self._client, self._uri = experiment, experiment.client, experiment.uri
        self._checkpoint, self._is_training = checkpoint, is_training
        self._last_steps: dict[str, int] = {}
        name, identity, tags = stage, _identity(recipe_digest(recipe)), labels(recipe)
        if trial is not None:
            name, identity, tags = _trial(stage, recipe, trial)
        with reaching(experiment.uri):
            self._run = run = open_run(experiment, name, identity, "spn train")
            self.run_id: str = run.info.run_id
            self.finished: bool = run.info.status == "FINISHED" and self._has_weights()
            if not self.finished:
                self._last_steps = {key: self._last_step(key) for key in run.data.metrics if not key.startswith(PREFIX)}
                self._describe(run, recipe, num_parameters, tags)
        if not self.finished:
            self._delivery = Delivery(experiment.uri, self._write)
            self._monitor = MachineMonitor(self._delivery.put, since=run.info.start_time)

    def measured(self, row: Mapping[str, float | int]) -> None:
        """Record a row of the history: `step`, and the values measured at that step.

        Values are written in the background, so that training never waits. Steps that the run already has are skipped,
        so a resumed training may pass its whole history again.
        """
        if self.finished:
            return
        step, now = int(row["step"]), milliseconds()
        new = [key for key in row if key != "step" and step > self._last_steps.get(key, -1)]
        self._last_steps |= dict.fromkeys(new, step)
        self._delivery.put([Metric(key, float(row[key]), now, step) for key in new])

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Write the rest and end the run; a run that was finished when opened stays unchanged.

        If the store is unreachable, a line says that the run is not complete.
        """
        if self.finished:
            return
        self._monitor.stop()
        files = {CHECKPOINT: self._checkpoint} if self._checkpoint and status == "FINISHED" else {}
        patience = PATIENCE[status] + sum(path.stat().st_size for path in files.values()) / _BYTES_PER_SECOND

        def end() -> None:
            log_files(self._experiment, self._run, files)  # before the status, so that a finished run has them whole
            self._client.set_terminated(self.run_id, status)

        has_ended = self._delivery.finish(end, patience)
        if not has_ended:
            why = self._delivery.failure or "no answer"
            say(f"the MLflow store {self._uri} is away: {why}; the same command, or `spn record`, completes the run")
        self.finished = has_ended and status == "FINISHED"

    def __enter__(self) -> "StageRun":
        if self._is_training and not self.finished:
            self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close("FINISHED")
        else:
            self.close("FAILED" if issubclass(kind, Exception) else "KILLED")

    def _describe(self, run: Run, recipe: Recipe, num_parameters: int, tags: dict[str, str]) -> None:
        self._client.update_run(self.run_id, status="RUNNING")
        log_params(self._client, run, recipe)
        log_figures(self._client, run, {"num_parameters": float(num_parameters)})
        log_dataset(self._client, run, recipe, "train")
        # A resumed training may run from another commit, under the same recipe; the last commit is recorded.
        if (self._is_training or MLFLOW_GIT_COMMIT not in run.data.tags) and (commit := git_commit()):
            tags = tags | {MLFLOW_GIT_COMMIT: commit}
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _has_weights(self) -> bool:
        if self._checkpoint is None:
            return True
        return any(file.path == CHECKPOINT for file in self._client.list_artifacts(self.run_id))

    def _last_step(self, key: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(self.run_id, key))

    def _write(self, batch: Sequence[Metric]) -> None:
        self._client.log_batch(self.run_id, metrics=batch)


def record_evaluation(
    experiment: Experiment,
    metrics: Mapping[str, Any],
    statement: str,
    chains: Sequence[str],
    taken: str | None = None,
) -> str:
    """Add the figures of a stage's metrics.json to the stage's run, and return the id of that run.

    `statement` says what the figures are, `chains` are those with this stage, and `taken` says which of its trials the
    figures are of, if it has any. Recording the same figures again changes nothing. Raises InputError if the stage has
    no run, and TrackingError if the store does not answer.
    """
    tags = [RunTag(key, metrics[key]) for key in ("split", "estimate", "conditioning", "dims")]
    tags += [RunTag("chain", ", ".join(chains)), RunTag(MLFLOW_RUN_NOTE, stage_card(metrics, statement, chains))]
    tags += [] if taken is None else [RunTag("taken", taken)]
    with reaching(experiment.uri):
        run = stage_run(experiment, metrics["stage"], metrics["recipe_digest"])
        log_figures(experiment.client, run, numbers(metrics))
        experiment.client.log_batch(run.info.run_id, tags=tags)
    return str(run.info.run_id)


def record_reconstruction(
    experiment: Experiment,
    first_stage: str,
    digest: str,
    metrics: Mapping[str, Any],
    picture: Path,
    chains: Sequence[str],
) -> str:
    """Add the figures of a first stage, and the picture of its reconstructions, to its run; return the id of that run.

    `digest` is that of the recipe of its training; `chains` are those that generate its codes. Raises as
    `record_evaluation` does.
    """
    with reaching(experiment.uri):
        run = stage_run(experiment, first_stage, digest)
        log_figures(experiment.client, run, numbers(metrics))
        tags = {"split": metrics["split"], "chain": ", ".join(chains)}
        tags[MLFLOW_RUN_NOTE] = first_stage_card(first_stage, metrics)
        experiment.client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        log_files(experiment, run, {picture.name: picture})
    return str(run.info.run_id)


def stage_run(experiment: Experiment, stage: str, digest: str) -> Run:
    """Find the run of a stage; raise InputError if there is none."""
    run = find_run(experiment, _identity(digest))
    if run is None:
        raise InputError(
            f"{experiment.uri}: expected a run of stage {stage} with recipe_digest {digest} "
            f"in experiment {experiment.id}, found none"
        )
    return run


def _trial(stage: str, recipe: Recipe, trial: Trial) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return the name, the identity and further tags of a trial's run."""
    number, _, changes = trial.text.partition(": ")
    identity = {"kind": "trial", "mlflow.parentRunId": trial.stage_run, "trial": str(trial.number + 1)}
    tags = labels(recipe) | {"changes": changes, "recipe_digest": recipe_digest(recipe)}
    return f"{stage}, {number}", identity, tags


def _identity(digest: str) -> dict[str, str]:
    return {"kind": "stage", "recipe_digest": digest}
