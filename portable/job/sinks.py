"""Where a job's numbers go: a JSON-lines file and TensorBoard, in the folder of what is being made, and
experiment trackers that the user names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portable.collective.place import read_place
from portable.core.errors import BackendUnavailable, ConfigError
from portable.core.metric import Fanout, JsonlSink, MetricSink, NullSink
from portable.core.registry import Registry, blame
from portable.train.metrics import TensorBoardSink

METRIC_SINKS = Registry(
    "metric sink",
    {"jsonl": "portable.job.sinks:open_jsonl", "tensorboard": "portable.job.sinks:open_tensorboard"},
    entry_group="portable.metric_sinks",
)


@dataclass(kw_only=True, slots=True)
class MetricsConfig:
    """``sinks`` take the numbers: jsonl and tensorboard, files in the run's folder; wandb, swanlab, mlflow,
    which need their packages and file the run under ``project``.
    """

    sinks: list[str] = field(default_factory=lambda: ["jsonl", "tensorboard"])
    project: str = "portable"

    def __post_init__(self) -> None:
        if "jsonl" not in self.sinks:
            raise ConfigError(
                f"metrics.sinks={self.sinks} lacks jsonl, the record that reports are made from; add it"
            )


def open_sinks(
    folder: Path,
    config: MetricsConfig | None = None,
    settings: Mapping[str, Any] | None = None,  # Any: JSON values
) -> MetricSink:
    """Return what writes to all sinks of ``config``; on ranks but the first, which record nothing, to none.

    ``settings`` are the run's, for sinks that show them. Raises: ConfigError for an unknown sink,
    BackendUnavailable for one whose package is missing or does not start.
    """
    names = (config or MetricsConfig()).sinks
    openers = {name: METRIC_SINKS.get(name) for name in names}
    if read_place().rank != 0:
        return NullSink()
    project = (config or MetricsConfig()).project
    sinks: list[MetricSink] = []
    try:
        for name, open_sink in openers.items():
            if name in ("jsonl", "tensorboard"):
                sinks.append(open_sink(folder, project, settings or {}))
            else:
                sinks.append(_open_tracker(name, folder, project, settings or {}))
    except (ConfigError, BackendUnavailable):
        Fanout(sinks).close()
        raise
    return Fanout(sinks)


def open_jsonl(folder: Path, project: str, settings: Mapping[str, Any]) -> JsonlSink:  # Any: JSON values
    """Open ``metrics.jsonl``."""
    return JsonlSink(folder / "metrics.jsonl")


def open_tensorboard(
    folder: Path, project: str, settings: Mapping[str, Any]
) -> TensorBoardSink:  # Any: JSON values
    """Open ``tensorboard/``."""
    return TensorBoardSink(folder / "tensorboard")


def _open_tracker(
    name: str, folder: Path, project: str, settings: Mapping[str, Any]
) -> MetricSink:  # Any: JSON values
    with blame(f"metrics.sinks={name} does not start; take it out, or mend what it says"):
        return METRIC_SINKS.get(name)(folder, project, settings)
