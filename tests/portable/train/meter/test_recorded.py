"""What stands beside the loss in the record of a run, on two ranks."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from portable.core.workspace import Workspace
from portable.testing.process import run_processes
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train.support import RowSource, TinyModel, make_runtime, rows_to_batch, train_config


class Recorder:
    def __init__(self) -> None:
        self.rows: list[dict[str, float | None]] = []

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self.rows.append(dict(values))

    def close(self) -> None:
        pass


class CountingSource(RowSource):
    def metrics(self) -> dict[str, float]:
        return {"rows_read": float(self.next_row)}


def record(folder: str, strategy: str = "ddp") -> list[dict[str, float | None]]:
    """Three steps, numbers recorded at the second and the third; what rank 0 recorded."""
    runtime = make_runtime(strategy)
    sink = Recorder()
    source = CountingSource(2, 4 // runtime.group.size, runtime.group.rank, runtime.group.size)
    config = train_config(3, log_every_steps=2)
    trainer = Trainer(TinyModel(), next_token_loss, source, config, runtime, Workspace(Path(folder), sink))
    trainer.meters.append(lambda: {"bubble_fraction": 0.25})
    trainer.fit()
    runtime.group.close()
    return sink.rows


def losses_of_first_two_steps() -> list[float]:
    """The mean loss of every micro-batch, by a plain loop."""
    trainer = Trainer(
        TinyModel(),
        next_token_loss,
        RowSource(2, 4),
        train_config(3),
        make_runtime(),
        Workspace(Path("unused")),
    )
    means: list[float] = []
    for _ in range(2):
        batches = trainer.source.next_batches()
        sums = [next_token_loss(trainer.module, batch).loss.detach() for batch in batches]
        means += [float(loss) / batch.num_terms for loss, batch in zip(sums, batches, strict=True)]
        trainer.train_step(batches)
        trainer.step += 1
    return means


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, float | None]]]:
    folder = tmp_path_factory.mktemp("recorded")
    return run_processes("tests.portable.train.meter.test_recorded:record", 2, folder, str(folder / "run"))


def test_only_the_first_rank_records(recorded) -> None:
    first, second = recorded
    assert len(first) == 2
    assert second == []


def test_the_worst_micro_batch_of_all_ranks_and_steps_is_told(recorded) -> None:
    assert recorded[0][0]["loss_max"] == pytest.approx(max(losses_of_first_two_steps()), abs=2e-6)


def test_time_and_memory_stand_by_part(recorded) -> None:
    first, last = recorded[0]
    for row in (first, last):
        parts = [row[name] for name in ("data_wait_s", "forward_backward_s", "optimizer_s")]
        assert min(parts) > 0
        assert row["checkpoint_s"] == 0.0
        assert row["memory_parameters_bytes"] > 0
        assert row["memory_optimizer_bytes"] > 2 * row["memory_parameters_bytes"]
        assert row["bubble_fraction"] == 0.25
    assert (first["rows_read"], last["rows_read"]) == (16.0, 24.0)


def test_a_micro_batch_without_a_term_has_no_mean(tmp_path) -> None:
    sink = Recorder()
    trainer = Trainer(
        TinyModel(),
        next_token_loss,
        RowSource(1, 1),
        train_config(1),
        make_runtime(),
        Workspace(tmp_path, sink),
    )
    empty = rows_to_batch([1])
    empty.loss_weight_BT.zero_()
    trainer.source.next_batches = lambda: [empty, rows_to_batch([2])]
    trainer.fit()
    (row,) = sink.rows
    assert row["loss_max"] == pytest.approx(row["loss"])
