"""Saving while training goes on, and resuming as if nothing had happened."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from portable.core.errors import ConfigError, StorageError
from portable.train.checkpoint import checkpointer as module
from portable.train.checkpoint import transfer
from portable.train.config import CheckpointConfig, MuonConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train import case_train
from tests.portable.train.support import TinyModel, train_config, weights_hash, workspace
from tests.processes import free_port, run_processes, start

CASE = "tests.portable.train.case_train"


def steps_saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights that every interrupted run must end with."""
    folder = tmp_path_factory.mktemp("run")
    return run_processes(f"{CASE}:train", 1, folder / "results", str(folder))[0]["hash"]


def kill_when(file: Path, ready: Any, target: str, folder: Path) -> None:
    """Start a run, wait until ``file`` holds what ``ready`` wants, and kill -9 it."""
    process = start(target, (0, 1, 0), folder / "results", str(folder))
    deadline = time.monotonic() + 120
    while not (file.is_file() and ready(file.read_text())):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_run_killed_at_random_steps_ends_with_the_same_weights(tmp_path: Path, uninterrupted: str):
    stream = random.Random(time.time_ns())  # any moment must do; the message names it
    moments = sorted(stream.sample(range(7, 29), 2))
    for moment in moments:
        kill_when(
            tmp_path / "step.txt",
            lambda text, wanted=moment: text != "" and int(text) >= wanted,
            f"{CASE}:train_slowly",
            tmp_path,
        )
    ended = run_processes(f"{CASE}:train", 1, tmp_path / "results", str(tmp_path))[0]
    assert ended["hash"] == uninterrupted, f"killed at steps {moments}"
    assert ended["began"] >= moments[-1] - 6  # the save under way may be lost, the one before it not


def test_a_run_killed_inside_a_background_save_ends_with_the_same_weights(tmp_path: Path, uninterrupted: str):
    kill_when(tmp_path / "saving.txt", lambda text: text == "now", f"{CASE}:hang_in_save", tmp_path)
    assert ".partial-step-00000009" in steps_saved(tmp_path)
    assert "step-00000009" not in steps_saved(tmp_path)
    ended = run_processes(f"{CASE}:train", 1, tmp_path / "results", str(tmp_path))[0]
    assert ended == {"hash": uninterrupted, "began": 6}
    assert steps_saved(tmp_path) == ["step-00000027", "step-00000030"]


def test_sharded_ranks_that_die_resume_exactly_and_another_layout_reads_their_checkpoint(tmp_path: Path):
    def fsdp(folder: str, die_after: str = "0") -> list[Any]:
        place = tmp_path / folder
        return run_processes(f"{CASE}:train", 2, place / "results", str(place), "fsdp", "muon", die_after)

    whole = {rank["hash"] for rank in fsdp("whole")}
    processes = [
        start(
            f"{CASE}:train",
            (rank, 2, port),
            tmp_path / "cut" / "results",
            str(tmp_path / "cut"),
            "fsdp",
            "muon",
            "14",
        )
        for port in [free_port()]
        for rank in range(2)
    ]
    for process in processes:
        process.communicate(timeout=120)
    assert "step-00000030" not in steps_saved(tmp_path / "cut")
    ended = fsdp("cut")
    assert {rank["hash"] for rank in ended} == whole
    assert all(rank["began"] in (9, 12) for rank in ended)
    alone = case_train.build(tmp_path / "whole", "single", "muon")
    alone.fit()  # at its last step already: it only loads
    assert {weights_hash(alone.module.state_dict())} == whole


def test_a_damaged_newest_checkpoint_costs_steps_not_the_run(
    tmp_path: Path, uninterrupted: str, caplog: pytest.LogCaptureFixture
):
    case_train.build(tmp_path).fit()
    newest = tmp_path / "checkpoints" / "step-00000030"
    data = newest / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-1])
    trainer = case_train.build(tmp_path)
    with caplog.at_level("INFO", logger="portable.train.checkpoint"):
        trainer.fit()
    assert "step-00000030 is not whole (__0_0.distcp differs from what was written)" in caplog.text
    assert "continuing from" in caplog.text
    assert weights_hash(trainer.module.state_dict()) == uninterrupted


def test_what_is_saved_is_the_state_of_its_step_whatever_happens_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The background thread is held until the weights have been overwritten: only a copy can pass."""
    released = threading.Event()
    real = transfer.FileSystemWriter.write_data

    def held(*arguments: Any, **named: Any) -> Any:
        assert released.wait(60)
        return real(*arguments, **named)

    monkeypatch.setattr(transfer.FileSystemWriter, "write_data", held)
    trainer = case_train.build(tmp_path)
    trainer.train_step(trainer.source.next_batches())
    saved = weights_hash(trainer.module.state_dict())
    trainer.step = 1
    trainer._save()
    with torch.no_grad():
        for parameter in trainer.module.parameters():
            parameter.fill_(7.0)
        for part in trainer.optimizer.parts:
            for entries in part.state.values():
                entries["exp_avg"].fill_(7.0)
    released.set()
    trainer._checkpointer.close()
    restored = case_train.build(tmp_path)
    restored.resume()
    assert weights_hash(restored.module.state_dict()) == saved
    averages = [entries["exp_avg"] for part in restored.optimizer.parts for entries in part.state.values()]
    assert all(float(average.abs().max()) < 1.0 for average in averages)


def test_saving_returns_before_the_bytes_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    released = threading.Event()
    real = module.commit
    monkeypatch.setattr(module, "commit", lambda *arguments: released.wait(60) and real(*arguments))
    trainer = case_train.build(tmp_path)
    trainer._checkpointer.save(1, {})
    assert not (tmp_path / "checkpoints" / "step-00000001").exists()
    released.set()
    trainer._checkpointer.close()
    assert steps_saved(tmp_path) == ["step-00000001"]


def other_run(folder: Path, model: TinyModel, **changes: Any) -> Trainer:
    config = train_config(30, checkpoint=CheckpointConfig(), **changes)
    return Trainer(
        model,
        next_token_loss,
        case_train.RowSource(2, 4),
        config,
        case_train.make_runtime(),
        workspace(folder),
    )


@pytest.mark.parametrize(
    ("model", "changes", "told"),
    [
        (
            {"num_blocks": 3},
            {},
            r"model/blocks.2.norm.weight \(8\) is not in the checkpoint; .*; and 1 more; set model",
        ),
        (
            {"vocab": 18},
            {},
            r"model/embed.weight is 17 × 8 in the checkpoint and 18 × 8 here; model/head.weight is 17 × 8",
        ),
        ({}, {"optim": MuonConfig()}, r"optimizer/blocks.0.inner.weight/momentum_buffer \(8 × 8\) is not in"),
    ],
    ids=["deeper", "wider", "optimiser"],
)
def test_a_checkpoint_of_another_model_or_optimiser_is_refused_with_the_first_differences(
    tmp_path: Path, model: dict[str, int], changes: dict[str, Any], told: str
):
    case_train.build(tmp_path, steps=3).fit()
    with pytest.raises(ConfigError, match=rf"step-00000003 belongs to another model .*: {told}"):
        other_run(tmp_path, TinyModel(**model), **changes).fit()


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (RuntimeError("[enforce fail] unexpected pos 704 vs 598"), "unexpected pos 704 vs 598"),
    ],
    ids=["full", "broken", "torch"],
)
def test_a_disk_that_fails_in_the_background_stops_the_run_with_a_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, told: str
):
    """Torch reports a full disk as an OSError or, from inside its own file format, as a RuntimeError."""

    def fail(*_: Any, **__: Any) -> Any:
        raise failure

    monkeypatch.setattr(transfer.FileSystemWriter, "write_data", fail)
    trainer = case_train.build(tmp_path)
    with pytest.raises(StorageError, match=told):
        trainer.fit()
    assert steps_saved(tmp_path) == []  # nothing is left that would only fill the disk


def test_a_read_only_folder_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    trainer = case_train.build(tmp_path)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="the file system is read-only; set another output folder"):
        trainer.fit()
