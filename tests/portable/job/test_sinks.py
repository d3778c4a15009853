"""The numbers of a job, in both of the places where they are kept."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from portable.core.errors import BackendUnavailable, ConfigError, StorageError
from portable.core.metric import read_metrics
from portable.job.sinks import METRIC_SINKS, MetricsConfig, open_sinks


class Tracker:
    """Stands for an experiment tracker that a package announces."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.rows: list[tuple[int, dict[str, float | None]]] = []
        self.closed = False

    def __call__(self, folder: Path, project: str, settings: dict[str, Any]) -> "Tracker":
        if self.failure is not None:
            raise self.failure
        self.opened = (folder, project, settings)
        return self

    def write(self, step: int, values: dict[str, float | None]) -> None:
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    found = Tracker()
    monkeypatch.setitem(METRIC_SINKS._objects, "tracker", found)
    return found


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """Return what TensorBoard would show under ``name``."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_number_stands_in_the_file_and_in_tensorboard(tmp_path) -> None:
    sinks = open_sinks(tmp_path)
    sinks.write(1, {"loss": 2.5, "tokens_per_s": 100.0})
    sinks.write(2, {"loss": 2.0})
    sinks.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 2.5),
        (2, 2.0),
    ]
    assert scalars(tmp_path, "loss") == [(1, 2.5), (2, 2.0)]
    assert scalars(tmp_path, "tokens_per_s") == [(1, 100.0)]


def test_a_number_that_is_not_known_is_kept_as_such_and_not_drawn(tmp_path) -> None:
    sinks = open_sinks(tmp_path)
    sinks.write(1, {"mfu": None, "loss": 1.0})
    sinks.close()
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["mfu"] is None
    assert EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()["scalars"] == ["loss"]


def test_a_job_that_continues_adds_to_what_stands_there(tmp_path) -> None:
    for step in (1, 2):
        sinks = open_sinks(tmp_path)
        sinks.write(step, {"loss": float(step)})
        sinks.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 2.0)]


def test_the_file_can_be_read_while_the_job_runs(tmp_path) -> None:
    sinks = open_sinks(tmp_path / "made" / "on_the_way")
    sinks.write(1, {"loss": 3.0})
    assert len(read_metrics(tmp_path / "made" / "on_the_way" / "metrics.jsonl")) == 1
    sinks.close()


def test_a_folder_that_cannot_be_made_is_named_with_a_remedy(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="output_dir") as error:
        open_sinks(tmp_path / "file" / "run")
    assert str(tmp_path / "file") in str(error.value)


def test_only_the_first_rank_records(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    sinks = open_sinks(tmp_path)
    sinks.write(1, {"loss": 1.0})
    sinks.close()
    assert not list(tmp_path.iterdir())


def test_a_sink_is_named_and_told_project_and_settings(tmp_path, tracker: Tracker) -> None:
    sinks = open_sinks(tmp_path, MetricsConfig(sinks=["jsonl", "tracker"], project="p"), {"seed": 3})
    sinks.write(1, {"loss": 2.0, "mfu": None})
    sinks.close()
    assert tracker.opened == (tmp_path, "p", {"seed": 3})
    assert tracker.rows == [(1, {"loss": 2.0, "mfu": None})]
    assert tracker.closed
    assert not (tmp_path / "tensorboard").exists()


def test_a_sink_that_does_not_start_is_named_and_leaves_none_open(tmp_path, tracker: Tracker) -> None:
    tracker.failure = RuntimeError("no route to the host")
    config = MetricsConfig(sinks=["jsonl", "tracker"])
    with pytest.raises(
        BackendUnavailable, match=r"metrics.sinks=tracker does not start.*no route to the host"
    ):
        open_sinks(tmp_path, config)


def test_a_record_without_the_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks jsonl"):
        MetricsConfig(sinks=["tensorboard"])


def test_an_unknown_sink_gets_a_suggestion(tmp_path) -> None:
    with pytest.raises(
        ConfigError, match=r"no metric sink is called 'tensorbord'. Did you mean 'tensorboard'"
    ):
        open_sinks(tmp_path, MetricsConfig(sinks=["jsonl", "tensorbord"]))
