"""The run of a trained stage: its recipe, its curves, and its exact figures on the test split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mlflow.entities import Metric, Run, RunTag

from spn.config import InputError
from spn.provenance import Recipe, git_commit, recipe_digest
from spn.tracking.delivery import Delivery
from spn.tracking.experiment import Experiment
from spn.tracking.outage import reaching, say
from spn.tracking.runs import find_run, log_figures, log_params, milliseconds, numbers, open_run

PATIENCE = {"FINISHED": 30.0, "FAILED": 2.0, "KILLED": 2.0}
"""Seconds that an ended training gives the store: few where a scheduler may be about to kill it."""


class StageRun:
    """The MLflow run of one stage, as a context: finished when left, failed or killed when left by an exception.

    Opening continues the run of the same recipe where there is one, and leaves it as it is where it is finished. The
    store must answer then, or TrackingError is raised; later it may be away, and training goes on. What is still not
    written at the end is said in a line, and `finished` stays False: whoever opens the run again completes it.
    """

    def __init__(
        self,
        experiment: Experiment,
        stage: str,
        recipe: Recipe,
        *,
        num_parameters: int,
        checkpoint: Path,
    ) -> None:
        self._client, self._uri = experiment.client, experiment.uri
        self._last_steps: dict[str, int] = {}
        with reaching(experiment.uri):
            run = open_run(experiment, stage, _identity(recipe_digest(recipe)), "spn train")
            self.run_id: str = run.info.run_id
            self.finished: bool = run.info.status == "FINISHED"
            if not self.finished:
                self._last_steps = {key: self._last_step(key) for key in run.data.metrics}
                self._describe(run, recipe, num_parameters, checkpoint)
        if not self.finished:
            self._delivery = Delivery(experiment.uri, self._write)

    def measured(self, row: Mapping[str, float | int]) -> None:
        """Record a row of the history: `step`, and what was measured at that step.

        Values are written in the background, so that training never waits. A step that the run already has is passed
        over: a resumed training may give its whole history again.
        """
        if self.finished:
            return
        step, now = int(row["step"]), milliseconds()
        new = [key for key in row if key != "step" and step > self._last_steps.get(key, -1)]
        self._last_steps |= dict.fromkeys(new, step)
        self._delivery.put([Metric(key, float(row[key]), now, step) for key in new])

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Write what is left and end the run; a run that was finished when opened stays as it is.

        Where the store is still away, a line says that the run is not complete.
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

    def _describe(self, run: Run, recipe: Recipe, num_parameters: int, checkpoint: Path) -> None:
        self._client.update_run(self.run_id, status="RUNNING")
        log_params(self._client, run, recipe)
        log_figures(self._client, run, {"num_parameters": float(num_parameters)})
        # A resumed training may come from another commit: the recipe is the same, and the last commit is recorded.
        tags = {"checkpoint": str(checkpoint)}
        if commit := git_commit():
            tags["mlflow.source.git.commit"] = commit
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _last_step(self, key: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(self.run_id, key))

    def _write(self, batch: Sequence[Metric]) -> None:
        self._client.log_batch(self.run_id, metrics=batch)


def has_finished_run(experiment: Experiment, digest: str) -> bool:
    """Tell whether the training of the recipe with this digest has a finished run."""
    with reaching(experiment.uri):
        run = find_run(experiment, _identity(digest))
    return run is not None and run.info.status == "FINISHED"


def record_evaluation(experiment: Experiment, metrics: Mapping[str, Any]) -> str:
    """Add the figures of a stage's metrics.json to the run of the stage, and return the id of that run.

    Recording the same figures again changes nothing. Raises InputError where the stage has no run, and TrackingError
    where the store does not answer.
    """
    tags = [RunTag(key, metrics[key]) for key in ("split", "estimate", "conditioning")]
    with reaching(experiment.uri):
        run = stage_run(experiment, metrics["stage"], metrics["recipe_digest"])
        log_figures(experiment.client, run, numbers(metrics))
        experiment.client.log_batch(run.info.run_id, tags=tags)
    return str(run.info.run_id)


def stage_run(experiment: Experiment, stage: str, digest: str) -> Run:
    """Find the run of a stage; raise InputError where there is none."""
    run = find_run(experiment, _identity(digest))
    if run is None:
        raise InputError(
            f"{experiment.uri}: expected a run of stage {stage} with recipe_digest {digest} "
            f"in experiment {experiment.id}, found none"
        )
    return run


def _identity(digest: str) -> dict[str, str]:
    return {"kind": "stage", "recipe_digest": digest}
