"""Rendezvous that do not come about."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from backends.cpu.device import CpuDevice
from portable.collective.launch import join_group
from portable.collective.local import LocalGroup
from portable.core.errors import CollectiveError
from tests.processes import free_port, start

FULL = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "gpu[007-008]",
    "SLURM_JOB_ID": "1234567",
}
CASES = "tests.portable.collective.case_torch_group"


def test_a_world_of_one_needs_no_communicator(monkeypatch: pytest.MonkeyPatch):
    for name, value in {**FULL, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert isinstance(join_group(CpuDevice(), 1.0), LocalGroup)


def test_peers_that_never_come_are_reported_with_the_address(monkeypatch: pytest.MonkeyPatch):
    port = str(free_port())
    for name, value in {**FULL, "RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        CollectiveError, match=f"rank 1 of 2 met nobody at MASTER_ADDR:MASTER_PORT=127.0.0.1:{port}"
    ):
        join_group(CpuDevice(), 1.0)


def test_a_port_in_use_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        for name, value in {**FULL, "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(CollectiveError, match=r"cannot serve the rendezvous .* choose a free port"):
            join_group(CpuDevice(), 5.0)


def test_a_rank_that_does_not_come_to_the_rendezvous_is_named(tmp_path: Path):
    place = 3, free_port()
    processes = [start(f"{CASES}:late", (rank, *place), tmp_path, "4") for rank in (0, 2)]
    for process in processes:
        process.communicate(timeout=60)
    text = json.loads((tmp_path / "result-0.json").read_text())
    assert text.startswith("CollectiveError: rank 0 of 3 waited at MASTER_ADDR:MASTER_PORT=127.0.0.1:")
    assert ": rank 1 did not come within communicator.timeout_s=4;" in text
    other = json.loads((tmp_path / "result-2.json").read_text())
    assert "rank 1 did not come" in other or "rank 0 gave up" in other


def test_two_processes_that_claim_one_rank_are_told(tmp_path: Path):
    place = 3, free_port()
    processes = [
        start(f"{CASES}:{case}", (rank, *place), tmp_path / case, *words)
        for case, rank, words in (("late", 0, "6"), ("late", 1, "6"), ("twice", 2, ""))
    ]
    for process in processes:
        process.communicate(timeout=60)
    texts = [json.loads(path.read_text()) for path in tmp_path.glob("*/result-*.json")]
    assert sum("two processes claim rank 1 of 3" in text for text in texts) == 1, texts
