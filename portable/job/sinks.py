"""Where a job's numbers go: a JSON-lines file and TensorBoard, in the folder of what is being made."""

from __future__ import annotations

from pathlib import Path

from portable.core.metric import Fanout, JsonlSink, MetricSink
from portable.train.metrics import TensorBoardSink


def open_sinks(folder: Path) -> MetricSink:
    """Return a sink that writes ``metrics.jsonl`` and ``tensorboard/`` in ``folder``."""
    return Fanout([JsonlSink(folder / "metrics.jsonl"), TensorBoardSink(folder / "tensorboard")])
