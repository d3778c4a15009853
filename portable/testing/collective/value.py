"""A group of one to four processes computes what the Protocol says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from portable.testing.collective.expected import expected
from portable.testing.process import run_processes
from portable.testing.requirement import need_devices

CASES = "portable.testing.collective.case"
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


@pytest.mark.parametrize("what", sorted(expected(0, 2)))
def test_every_rank_gets_what_the_protocol_says(ranks: list[dict[str, Any]], what: str) -> None:
    for rank, result in enumerate(ranks):
        assert result.get(what) == expected(rank, len(ranks)).get(what)


def test_ranks_know_their_place(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    for rank, result in enumerate(ranks):
        assert result["place"] == [rank, size, "world", list(range(size)), size > 1]


def test_formats_are_reduced_and_moved_or_refused_as_the_capability_says(ranks: list[dict[str, Any]]) -> None:
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


def test_a_mean_of_large_halves_stays_finite(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert result["dtypes"].get("fp16", {}).get("large_mean", [60000.0] * 2) == [60000.0] * 2


def test_booleans_are_any_and_all(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        if result["dtypes"]["bool"]["claimed"] != "none":
            assert result["dtypes"]["bool"]["any"] == [True]
            assert result["dtypes"]["bool"]["all"] == [len(ranks) == 1]


def test_what_cannot_be_is_refused_before_anything_is_sent(ranks: list[dict[str, Any]]) -> None:
    capability = {"int_mean": "CapabilityError", "factor": "CapabilityError"}
    for result in ranks:
        assert result["refused"] == {name: capability.get(name, "ShapeError") for name in result["refused"]}


def test_resolution_gives_a_reason_for_each_choice(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert all(isinstance(reason, str) and reason for reason in result["resolution"].values())
        if len(ranks) > 1:
            assert {"all_reduce", "gather", "mean", "premul_sum", "bfloat16"} <= set(result["resolution"])


def test_axes_and_nodes_of_a_mesh(backend_name: str, tmp_path: Path) -> None:
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
