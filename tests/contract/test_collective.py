"""Every backend's group, of one to four processes, computes what the Protocol says and names who fails it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from portable.core.errors import PortableError
from portable.testing.selection import configured_backend
from tests.contract.expected_collective import expected
from tests.processes import free_port, run_processes, start

CASES = "tests.contract.case_collective"
SIZES = (1, 2, 3)
# Formats whose sum of ones is a sum, and those for which it is something else.
FLOATS = {"fp64", "fp32", "bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "complex64"}


@pytest.fixture(scope="session", params=SIZES, ids=lambda size: f"{size}-ranks")
def ranks(
    request: pytest.FixtureRequest, backend_name: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    need_devices(backend_name, request.param)
    folder = tmp_path_factory.mktemp("collective")
    return run_processes(f"{CASES}:run", request.param, folder, backend_name)


def need_devices(backend_name: str, count: int) -> None:
    """Skip where processes need a device each and there are fewer; a CPU takes any number."""
    device = configured_backend(backend_name).device()
    try:
        device.set_index(count - 1)
    except (PortableError, RuntimeError) as error:
        pytest.skip(f"{count} ranks need {count} devices of {backend_name}, but: {error}")
    finally:
        device.set_index(0)


@pytest.mark.parametrize("what", sorted(expected(0, 2)))
def test_every_rank_gets_what_the_protocol_says(ranks: list[dict[str, Any]], what: str):
    for rank, result in enumerate(ranks):
        assert result.get(what) == expected(rank, len(ranks)).get(what)


def test_ranks_know_their_place(ranks: list[dict[str, Any]]):
    size = len(ranks)
    for rank, result in enumerate(ranks):
        assert result["place"] == [rank, size, "world", list(range(size)), size > 1]


def test_formats_are_reduced_and_moved_or_refused_as_the_capability_says(ranks: list[dict[str, Any]]):
    size = len(ranks)
    for result in ranks:
        for name, found in result["dtypes"].items():
            if found["claimed"] == "none" and size > 1:
                assert {found[call] for call in ("sum", "scatter", "broadcast", "gather")} == {
                    "CapabilityError"
                }
                continue
            added = 1.0 if name == "bool" else float(size)
            assert found["sum"] == found["scatter"] == [added] * 3, name
            assert found["broadcast"] == found["to_all"] == found["gather"] == [1.0] * 3, name
            assert found["max"] == ("CapabilityError" if name == "complex64" else [1.0] * 3), name
            assert found["mean"] == ([1.0] * 3 if name in FLOATS else "CapabilityError"), name


def test_a_mean_of_large_halves_stays_finite(ranks: list[dict[str, Any]]):
    for result in ranks:
        assert result["dtypes"].get("fp16", {}).get("large_mean", [60000.0] * 2) == [60000.0] * 2


def test_booleans_are_any_and_all(ranks: list[dict[str, Any]]):
    for result in ranks:
        if result["dtypes"]["bool"]["claimed"] != "none":
            assert result["dtypes"]["bool"]["any"] == [True]
            assert result["dtypes"]["bool"]["all"] == [len(ranks) == 1]


def test_what_cannot_be_is_refused_before_anything_is_sent(ranks: list[dict[str, Any]]):
    capability = {"int_mean": "CapabilityError", "factor": "CapabilityError"}
    for result in ranks:
        assert result["refused"] == {name: capability.get(name, "ShapeError") for name in result["refused"]}


def test_resolution_gives_a_reason_for_each_choice(ranks: list[dict[str, Any]]):
    for result in ranks:
        assert all(isinstance(reason, str) and reason for reason in result["resolution"].values())
        if len(ranks) > 1:
            assert {"all_reduce", "gather", "mean", "premul_sum", "bfloat16"} <= set(result["resolution"])


def test_axes_and_nodes_of_a_mesh(backend_name: str, tmp_path: Path):
    need_devices(backend_name, 4)
    for rank, result in enumerate(run_processes(f"{CASES}:axes", 4, tmp_path, backend_name)):
        row, column = rank // 2, rank % 2
        assert result["rows"] == ["tp", column, [1.0, 5.0][row]]
        members = [[2, 0], [3, 1]][column]
        assert result["columns"] == [
            "dp",
            members.index(rank),
            members,
            [float(member) for member in members],
        ]
        assert result["some"] == ([3.0, 1.0] if rank in (1, 3) else None)
        assert result["nodes"] == [[2 * row, 2 * row + 1], [column, column + 2]]
        # Four terms of magnitude up to 4: three additions, each rounding by at most 2**-22 of a sum below 10.
        assert all(difference <= 3e-6 for difference in result["differences"].values()), result["differences"]
        assert result["differences"]["max"] == 0.0
        assert result["wrapped"] == "ProcessGroup"
        assert result["refused"] == "CapabilityError"


def test_ranks_out_of_step_are_named_and_the_group_lives_on(backend_name: str, tmp_path: Path):
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
def test_a_rank_that_dies_is_named_long_before_the_timeout(backend_name: str, tmp_path: Path, where: str):
    lost = Lost(backend_name, tmp_path, "dies", 1, where=where, timeout_s=20)
    for rank, result in lost.told.items():
        assert result["message"].startswith(f"rank {rank} of 3 on axis 'world' failed in ")
        assert "rank 1 does not answer: it is gone or frozen" in result["message"]
        assert result["seconds"] < 12
        assert result["again"] == result["message"]


@pytest.mark.parametrize("where", ["world", pytest.param("wrapper", marks=pytest.mark.slow)])
def test_a_rank_that_stalls_is_told_from_a_dead_one(backend_name: str, tmp_path: Path, where: str):
    lost = Lost(backend_name, tmp_path, "sleeps", 1, where=where, timeout_s=6)
    for result in lost.told.values():
        assert "on axis 'world'" in result["message"]
        assert (
            "rank 1 did not arrive within communicator.timeout_s=6 (rank 1 last called " in result["message"]
        )
        assert result["seconds"] < 6.5


@pytest.mark.slow
def test_a_frozen_rank_is_named_within_the_timeout(backend_name: str, tmp_path: Path):
    lost = Lost(backend_name, tmp_path, "freezes", 1, timeout_s=6)
    for result in lost.told.values():
        assert "rank 1 does not answer: it is gone or frozen" in result["message"]
        assert result["seconds"] < 6.5


@pytest.mark.parametrize("how", ["dies", pytest.param("freezes", marks=pytest.mark.slow)])
def test_the_rank_that_keeps_the_rendezvous_is_named_too(backend_name: str, tmp_path: Path, how: str):
    lost = Lost(backend_name, tmp_path, how, 0, size=2, timeout_s=6)
    assert "rank 0, which keeps the rendezvous, is gone or frozen" in lost.told[1]["message"]
    assert lost.told[1]["seconds"] < 6.5


@pytest.mark.slow
def test_an_error_on_an_axis_names_it_and_both_ranks(backend_name: str, tmp_path: Path):
    lost = Lost(backend_name, tmp_path, "dies", 2, where="axis", timeout_s=4)
    assert lost.told[1]["message"].startswith(
        "rank 0 of 2 on axis 'tp' failed in all_reduce sum of float32 (2)"
    )
    assert "rank 1 (world rank 2) does not answer" in lost.told[1]["message"]
