"""MLflow. Written against mlflow 3.17 (mlflow-skinny is enough); MLFLOW_TRACKING_URI says where runs go."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.tracker.package import import_tracker, run_id

_TAG = "portable.run_id"
_MAX_PARAM = 6000  # characters that a parameter may have there


class MlflowSink:
    """``client`` and ``entities`` are the package's own: their types are not known here, hence Any."""

    def __init__(self, client: Any, entities: Any, run: str) -> None:
        self._client = client
        self._entities = entities
        self._run = run

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log the values that are known, in one call."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, step)
            for name, value in values.items()
            if value is not None
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


def open_mlflow(folder: Path, project: str, settings: Mapping[str, Any]) -> MlflowSink:  # Any: JSON values
    """Start the run of ``folder`` in the experiment ``project``, or go on with it."""
    package = import_tracker("mlflow", "mlflow")
    client = package.MlflowClient()
    experiment = client.get_experiment_by_name(project)
    number = client.create_experiment(project) if experiment is None else experiment.experiment_id
    found = client.search_runs([number], f"tags.`{_TAG}` = '{run_id(folder)}'", max_results=1)
    if found:
        run = found[0].info.run_id
        client.update_run(run, status="RUNNING")
    else:
        run = client.create_run(number, tags={_TAG: run_id(folder)}, run_name=folder.name).info.run_id
        parameters = [
            package.entities.Param(name, text[:_MAX_PARAM]) for name, text in _flat(settings).items()
        ]
        client.log_batch(run, params=parameters)
    return MlflowSink(client, package.entities, run)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:  # Any: JSON values
    """Return nested settings as one level of dotted names, which is all that parameters there can be."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
