"""What a training's machine does: CPU, memory and GPUs, as MLflow's tab of system metrics shows it.

NOTE: MLflow's own monitor asks the store at every sample, stops for good when the store does not answer, and makes the
end of a training wait for it. Here samples are sent with the rows of the training (`delivery`).
"""

from collections.abc import Callable, Sequence
from threading import Event, Thread

from mlflow.entities import Metric
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from spn.tracking.outage import reason, say
from spn.tracking.runs import milliseconds

PREFIX = "system/"
"""Of the names of metrics that MLflow shows in their own tab."""

_SECONDS = 10.0
"""Between samples, as MLflow does; a sample takes about a millisecond."""


class MachineMonitor:
    """Samples the machine in a thread from `start` to `stop`, and hands the samples to `put`.

    The step of a sample is the time in seconds since `since`, in milliseconds since 1970, so that steps grow across
    interruptions. MLflow's variables apply: MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns it off, and
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL sets the seconds between samples. Any error ends the samples with a line on
    stderr, and not the training.
    """

    def __init__(self, put: Callable[[Sequence[Metric]], None], since: int) -> None:
        self._put, self._since = put, since
        self._stopped = Event()

    def start(self) -> None:
        """Begin to sample, unless the environment turns it off."""
        if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set():
            Thread(target=self._run, name="machine", daemon=True).start()

    def stop(self) -> None:
        """End the samples, without waiting."""
        self._stopped.set()

    def _run(self) -> None:
        seconds = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _SECONDS
        try:
            monitors = _monitors()
            while not self._stopped.wait(seconds):
                self._put(self._sample(monitors))
        except Exception as error:  # whatever it is, training goes on
            say(f"no more system metrics: {reason(error)}")

    def _sample(self, monitors: Sequence[BaseMetricsMonitor]) -> list[Metric]:
        now = milliseconds()
        metrics = []
        for monitor in monitors:
            monitor.collect_metrics()
            values = monitor.aggregate_metrics()
            monitor.clear_metrics()
            metrics += [
                Metric(PREFIX + key, float(value), now, (now - self._since) // 1000) for key, value in values.items()
            ]
        return metrics


def _monitors() -> list[BaseMetricsMonitor]:
    processor = CPUMonitor()
    processor.collect_metrics()  # its load is that since the sample before, so the first sample has none
    processor.clear_metrics()
    try:
        return [processor, GPUMonitor()]
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        return [processor]
