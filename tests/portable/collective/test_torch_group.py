"""What a group says when a call is wrong or a peer does not come.

That it computes right is in tests/contract.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.processes import free_port, run_processes, start

CASES = "tests.portable.collective.case_failure"


def test_refusals_name_the_values_and_send_nothing(tmp_path: Path):
    for told in run_processes(f"{CASES}:refusals", 2, tmp_path):
        assert told["odd_scatter"].startswith("ShapeError: reduce_scatter over 2 ranks got the shape (3,)")
        assert told["scalar_to_all"].startswith("ShapeError: all_to_all over 2 ranks got the shape ()")
        assert told["int_mean"].startswith("CapabilityError: the mean of torch.int64")
        assert (
            told["no_max"]
            == "CapabilityError: the communicator 'gloo' cannot reduce with max; use sum or mean"
        )
        assert told["still_works"] == [1.0, 1.0]


def test_our_name_of_a_communicator_may_differ_from_torchs(tmp_path: Path):
    assert run_processes(f"{CASES}:named", 2, tmp_path) == [["fabric", 3], ["fabric", 3]]


def test_a_time_out_names_the_collective_and_the_ranks(tmp_path: Path):
    waiting, slept = run_processes(f"{CASES}:absent", 2, tmp_path, "sleeps")
    assert slept == "slept"
    assert waiting.startswith(
        "CollectiveError: rank 0 of 2 failed in all_reduce over gloo: rank 1 did not arrive"
    )
    assert "communicator.timeout_s=2" in waiting


def test_a_dead_rank_is_named(tmp_path: Path):
    place = free_port()
    processes = [start(f"{CASES}:absent", (rank, 2, place), tmp_path, "dies") for rank in range(2)]
    for process in processes:
        process.communicate(timeout=60)
    message = json.loads((tmp_path / "result-0.json").read_text())
    assert "rank 1 did not arrive" in message
