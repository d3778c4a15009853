"""Every backend's group, of one process and of two, computes what the Protocol says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes import run_processes

SIZES = (1, 2)


@pytest.fixture(scope="session", params=SIZES, ids=lambda size: f"{size}-ranks")
def ranks(
    request: pytest.FixtureRequest, backend_name: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("collective")
    return run_processes("tests.contract.case_collective:run", request.param, folder, backend_name)


def own(rank: int) -> list[list[float]]:
    return [[value * (rank + 1) for value in row] for row in ([1.0, -2.0], [3.0, 4.0])]


def combined(size: int, how: Any) -> list[list[float]]:
    return [[how([own(rank)[i][j] for rank in range(size)]) for j in range(2)] for i in range(2)]


def test_ranks_know_their_place(ranks: list[dict[str, Any]]):
    assert [result["rank"] for result in ranks] == list(range(len(ranks)))
    assert all(result["size"] == len(ranks) for result in ranks)
    assert all(result["has_process_group"] == (len(ranks) > 1) for result in ranks)


@pytest.mark.parametrize(
    ("name", "how"),
    [("sum", sum), ("max", max), ("min", min), ("mean", lambda values: sum(values) / len(values))],
)
def test_all_reduce(ranks: list[dict[str, Any]], name: str, how: Any):
    for result in ranks:
        assert result[f"reduce_{name}"] == combined(len(ranks), how)


def test_all_reduce_keeps_dtype_and_shape(ranks: list[dict[str, Any]]):
    size = len(ranks)
    mean = (size + 1) / 2
    for result in ranks:
        assert result["reduce_bf16"] == [[mean, -2 * mean], [3 * mean, 4 * mean]]
        assert result["reduce_int"] == [size * (size + 1) // 2]
        offset = size * (size - 1) // 2
        assert result["reduce_strided"] == [[size * c + offset, size * (c + 3) + offset] for c in range(3)]


def test_all_gather_stacks_in_rank_order(ranks: list[dict[str, Any]]):
    for result in ranks:
        assert result["gather"] == [own(rank) for rank in range(len(ranks))]
        assert result["gather_scalar"] == [float(rank) for rank in range(len(ranks))]


def test_reduce_scatter_gives_each_rank_its_block(ranks: list[dict[str, Any]]):
    size = len(ranks)
    for rank, result in enumerate(ranks):
        total = [[sum(2 * rank + i + 10 * peer for peer in range(size))] for i in range(2)]
        assert result["scatter_sum"] == total
        assert result["scatter_mean"] == [[value / size] for (value,) in total]


def test_all_to_all_exchanges_blocks(ranks: list[dict[str, Any]]):
    size = len(ranks)
    for rank, result in enumerate(ranks):
        assert result["to_all"] == [[2.0 * rank + i + 10 * peer] for peer in range(size) for i in range(2)]


def test_broadcast_gives_the_source_to_all(ranks: list[dict[str, Any]]):
    last = len(ranks) - 1
    for result in ranks:
        assert result["broadcast_first"] == own(0)
        assert result["broadcast_last"] == own(last)
        assert result["object"] == {"rank": last, "text": "é"}


def test_scalars_add_in_double_precision(ranks: list[dict[str, Any]]):
    assert all(
        result["sum_scalar"] == sum(2**40 + rank + 0.25 for rank in range(len(ranks))) for result in ranks
    )


def test_inputs_stay_as_they_were(ranks: list[dict[str, Any]]):
    assert all(result["input_unchanged"] for result in ranks)


def test_a_source_that_does_not_exist_is_refused(ranks: list[dict[str, Any]]):
    assert all(result["bad_source"] == "ShapeError" for result in ranks)
