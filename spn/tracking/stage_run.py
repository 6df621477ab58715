"""The MLflow run of a stage: its recipe, its training curves, and its figures on the test split; and of its trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mlflow.entities import Metric, Run, RunTag

from spn.config import InputError
from spn.provenance import Recipe, git_commit, recipe_digest
from spn.tracking.delivery import Delivery
from spn.tracking.experiment import Experiment
from spn.tracking.outage import reaching, say
from spn.tracking.runs import find_run, log_figures, log_params, log_pictures, milliseconds, numbers, open_run

PATIENCE = {"FINISHED": 30.0, "FAILED": 2.0, "KILLED": 2.0}
"""Seconds to wait for the store at the end of a training; few if a scheduler may be about to kill the process."""


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
    answer at that moment, or TrackingError is raised; later it may be unreachable, and training continues. If rows are
    still unsent at the end, a line says so and `finished` stays False; opening the run again completes it.
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
    ) -> None:
        self._client, self._uri = experiment.client, experiment.uri
        self._last_steps: dict[str, int] = {}
        name, identity, tags = stage, _identity(recipe_digest(recipe)), dict[str, str]()
        if trial is not None:
            name, identity, tags = _trial(stage, recipe, trial)
        if checkpoint is not None:
            tags["checkpoint"] = str(checkpoint)
        with reaching(experiment.uri):
            run = open_run(experiment, name, identity, "spn train")
            self.run_id: str = run.info.run_id
            self.finished: bool = run.info.status == "FINISHED"
            if not self.finished:
                self._last_steps = {key: self._last_step(key) for key in run.data.metrics}
                self._describe(run, recipe, num_parameters, tags)
        if not self.finished:
            self._delivery = Delivery(experiment.uri, self._write)

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
        has_ended = self._delivery.finish(lambda: self._client.set_terminated(self.run_id, status), PATIENCE[status])
        if not has_ended:
            why = self._delivery.failure or "no answer"
            say(f"the MLflow store {self._uri} is away: {why}; the same command, or `spn record`, completes the run")
        self.finished = has_ended and status == "FINISHED"

    def __enter__(self) -> "StageRun":
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
        # A resumed training may run from another commit, under the same recipe; the last commit is recorded.
        if commit := git_commit():
            tags = tags | {"mlflow.source.git.commit": commit}
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _last_step(self, key: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(self.run_id, key))

    def _write(self, batch: Sequence[Metric]) -> None:
        self._client.log_batch(self.run_id, metrics=batch)


def record_evaluation(experiment: Experiment, metrics: Mapping[str, Any], taken: str | None = None) -> str:
    """Add the figures of a stage's metrics.json to the stage's run, and return the id of that run.

    `taken` says which of the stage's trials they are of, if it has any. Recording the same figures again changes
    nothing. Raises InputError if the stage has no run, and TrackingError if the store does not answer.
    """
    tags = [RunTag(key, metrics[key]) for key in ("split", "estimate", "conditioning", "dims")]
    tags += [] if taken is None else [RunTag("taken", taken)]
    with reaching(experiment.uri):
        run = stage_run(experiment, metrics["stage"], metrics["recipe_digest"])
        log_figures(experiment.client, run, numbers(metrics))
        experiment.client.log_batch(run.info.run_id, tags=tags)
    return str(run.info.run_id)


def record_reconstruction(
    experiment: Experiment, first_stage: str, digest: str, metrics: Mapping[str, Any], picture: Path
) -> str:
    """Add the figures of a first stage, and the picture of its reconstructions, to its run; return the id of that run.

    `digest` is that of the recipe of its training. Raises as `record_evaluation` does.
    """
    with reaching(experiment.uri):
        run = stage_run(experiment, first_stage, digest)
        log_figures(experiment.client, run, numbers(metrics))
        experiment.client.set_tag(run.info.run_id, "split", metrics["split"])
        log_pictures(experiment, run, {picture.name: picture})
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
    return f"{stage}, {number}", identity, {"stage": stage, "changes": changes, "recipe_digest": recipe_digest(recipe)}


def _identity(digest: str) -> dict[str, str]:
    return {"kind": "stage", "recipe_digest": digest}
