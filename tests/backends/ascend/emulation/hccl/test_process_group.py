"""torch_npu's own ProcessGroupHCCL over the emulated HCCL: every collective, FSDP2, TP, and failing ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.processes import free_port, run_processes, start

RANKS = "tests.backends.ascend.emulation.hccl.torch_ranks"
BACKENDS = ["hccl", "cpu:gloo,npu:hccl"]

pytestmark = pytest.mark.ascend_emulation


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("what", ["reduce_everything", "move_everything", "talk"])
def test_collectives_match_the_cpu(emulated: Path, tmp_path: Path, what: str, size: int) -> None:
    backend = BACKENDS[size % 2]
    assert run_processes(f"{RANKS}:{what}", size, tmp_path, backend) == [[]] * size


@pytest.mark.parametrize("how", ["train_sharded", "train_tensor_parallel"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_gives_the_losses_of_one_cpu(emulated: Path, tmp_path: Path, how: str, backend: str) -> None:
    [expected] = run_processes(f"{RANKS}:train_on_cpu", 1, tmp_path / "cpu")
    for losses in run_processes(f"{RANKS}:{how}", 2, tmp_path / "npu", backend):
        assert losses == pytest.approx(expected, abs=1e-6)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize(
    ("other_does", "words"),
    [
        ("die", "rank 1 is gone: its process ended"),
        ("stall", "rank 1 did not take part in time"),
        ("gather", "all_gather #2 of 4 float32"),
    ],
)
def test_a_failing_rank_is_named(
    emulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_does: str, words: str
) -> None:
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "2")
    place = (2, free_port())
    ranks = [
        start(f"{RANKS}:wait_for_another", (rank, *place), tmp_path, "hccl", other_does) for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert ranks[0].returncode == 0, errors[0]
    told, seconds = json.loads((tmp_path / "result-0.json").read_text())
    assert words in told
    assert "all_reduce #2 of 4 float32 by sum" in told
    assert "rank 1" in told
    assert seconds < 4.0
