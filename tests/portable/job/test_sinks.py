"""The numbers of a job, in both of the places where they are kept."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from portable.core.errors import StorageError
from portable.core.metric import read_metrics
from portable.job.sinks import open_sinks


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
