"""A rank that dies, stalls, freezes or falls out of step is named, with its axis, within the timeout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from portable.testing.process import free_port, run_processes, start
from portable.testing.requirement import need_devices

CASES = "portable.testing.collective.case"


def test_ranks_out_of_step_are_named_and_the_group_lives_on(backend_name: str, tmp_path: Path) -> None:
    need_devices(backend_name, 3)
    for rank, told in enumerate(run_processes(f"{CASES}:out_of_step", 3, tmp_path, backend_name)):
        assert told.pop("still_works") == [3.0, 3.0]
        for text in told.values():
            assert text.startswith(f"rank {rank} of 3 on axis 'world' stopped before call")
            assert ": rank 2 calls " in text
            assert "; rank 0, rank 1 calls " in text
        assert "rank 2 calls broadcast from 0 of float32 (2) as call 1" in told["order"]
        assert "rank 0, rank 1 calls all_reduce sum of float32 (2) as call 1" in told["order"]
        assert "all_reduce sum of float32 (1)" in told["shape"]
        assert "all_gather int32 (2)" in told["dtype"]
        assert "all_reduce max of" in told["op"]
        assert "rank 2 calls sum_scalar" in told["host"]


class Lost:
    """Starts ranks of which one is lost; holds what the others were told."""

    def __init__(self, backend_name: str, folder: Path, how: str, guilty: int, **options: Any) -> None:
        size, where, timeout_s = options.get("size", 3), options.get("where", "world"), options["timeout_s"]
        need_devices(backend_name, size)
        self.others = [rank for rank in range(size) if rank != guilty]
        place = size, free_port()
        arguments = (backend_name, how, str(guilty), where, str(timeout_s))
        started = [start(f"{CASES}:lost", (rank, *place), folder, *arguments) for rank in range(size)]
        try:
            errors = {rank: started[rank].communicate(timeout=120)[1] for rank in self.others}
        finally:
            for process in started:
                process.kill()
                process.wait()
        for rank in self.others:
            assert started[rank].returncode == 0, errors[rank]
        self.told = {rank: json.loads((folder / f"result-{rank}.json").read_text()) for rank in self.others}


@pytest.mark.parametrize("where", ["world", pytest.param("wrapper", marks=pytest.mark.slow)])
def test_a_rank_that_dies_is_named_long_before_the_timeout(
    backend_name: str, tmp_path: Path, where: str
) -> None:
    lost = Lost(backend_name, tmp_path, "dies", 1, where=where, timeout_s=20)
    for rank, result in lost.told.items():
        assert result["message"].startswith(f"rank {rank} of 3 on axis 'world' failed in ")
        assert "rank 1 does not answer: it is gone or frozen" in result["message"]
        assert result["seconds"] < 12
        assert result["again"] == result["message"]


@pytest.mark.parametrize("where", ["world", pytest.param("wrapper", marks=pytest.mark.slow)])
def test_a_rank_that_stalls_is_told_from_a_dead_one(backend_name: str, tmp_path: Path, where: str) -> None:
    lost = Lost(backend_name, tmp_path, "sleeps", 1, where=where, timeout_s=6)
    for result in lost.told.values():
        assert "on axis 'world'" in result["message"]
        assert (
            "rank 1 did not arrive within communicator.timeout_s=6 (rank 1 last called " in result["message"]
        )
        assert result["seconds"] < 6.5


@pytest.mark.slow
def test_a_frozen_rank_is_named_within_the_timeout(backend_name: str, tmp_path: Path) -> None:
    lost = Lost(backend_name, tmp_path, "freezes", 1, timeout_s=6)
    for result in lost.told.values():
        assert "rank 1 does not answer: it is gone or frozen" in result["message"]
        assert result["seconds"] < 6.5


@pytest.mark.parametrize("how", ["dies", pytest.param("freezes", marks=pytest.mark.slow)])
def test_the_rank_that_keeps_the_rendezvous_is_named_too(backend_name: str, tmp_path: Path, how: str) -> None:
    lost = Lost(backend_name, tmp_path, how, 0, size=2, timeout_s=6)
    assert "rank 0, which keeps the rendezvous, is gone or frozen" in lost.told[1]["message"]
    assert lost.told[1]["seconds"] < 6.5


@pytest.mark.slow
def test_an_error_on_an_axis_names_it_and_both_ranks(backend_name: str, tmp_path: Path) -> None:
    lost = Lost(backend_name, tmp_path, "dies", 2, where="axis", timeout_s=4)
    assert lost.told[1]["message"].startswith(
        "rank 0 of 2 on axis 'tp' failed in all_reduce sum of float32 (2)"
    )
    assert "rank 1 (world rank 2) does not answer" in lost.told[1]["message"]
