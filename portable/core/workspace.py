"""The folder and the sinks that a stage is given to work with."""

from dataclasses import dataclass, field
from pathlib import Path

from portable.core.metric import MetricSink, NullSink


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a stage writes. The same ``dir`` on a second call means: continue what stands there."""

    dir: Path
    metrics: MetricSink = field(default_factory=NullSink)
    show_progress: bool = False

    @property
    def checkpoint_dir(self) -> Path:
        """Where resumable state goes; never part of an artefact's payload."""
        return self.dir / "checkpoints"
