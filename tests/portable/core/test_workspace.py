"""The folder a stage works in."""

from pathlib import Path

from portable.core.metric import NullSink
from portable.core.workspace import Workspace


def test_workspace_is_quiet_by_default(tmp_path: Path):
    workspace = Workspace(tmp_path)
    assert isinstance(workspace.metrics, NullSink)
    assert not workspace.show_progress
    assert workspace.checkpoint_dir == tmp_path / "checkpoints"
    assert not workspace.checkpoint_dir.exists()
    workspace.metrics.write(1, {"loss": 1.0})
    workspace.metrics.close()
    assert list(tmp_path.iterdir()) == []
