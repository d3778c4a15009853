"""The emulated libhccl.so by its C interface: results, and what ranks are told when something goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.processes import free_port, run_processes, start

RANKS = "tests.backends.ascend.emulation.hccl.ranks"
E_PARA, E_NOT_SUPPORT, E_TIMEOUT, E_REMOTE = 1, 5, 9, 21

pytestmark = pytest.mark.ascend_emulation


@pytest.mark.parametrize("size", [1, 2, 3])
def test_reductions_are_those_of_numpy(emulated: Path, tmp_path: Path, size: int) -> None:
    assert run_processes(f"{RANKS}:reduce_everything", size, tmp_path, str(tmp_path)) == [[]] * size


def test_bfloat16_rounds_after_every_rank(emulated: Path, tmp_path: Path) -> None:
    expected = [6.0, 256.0]  # 257 has no bfloat16 and rounds to 256, twice; in float32 it would end as 258
    assert run_processes(f"{RANKS}:reduce_bfloat16", 3, tmp_path, str(tmp_path)) == [expected] * 3


def test_reductions_go_in_rank_order(emulated: Path, tmp_path: Path) -> None:
    assert run_processes(f"{RANKS}:reduce_in_rank_order", 3, tmp_path, str(tmp_path)) == [[0.0] * 7] * 3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_moves_bring_every_block_to_its_place(emulated: Path, tmp_path: Path, size: int) -> None:
    assert run_processes(f"{RANKS}:move_everything", size, tmp_path, str(tmp_path)) == [[]] * size


def test_two_ranks_may_both_send_first(emulated: Path, tmp_path: Path) -> None:
    assert run_processes(f"{RANKS}:send_first_on_both_sides", 2, tmp_path, str(tmp_path)) == [True, True]


def test_a_batch_may_list_receives_first(emulated: Path, tmp_path: Path) -> None:
    assert run_processes(f"{RANKS}:batch_round_the_ring", 3, tmp_path, str(tmp_path)) == [
        [2, 0],
        [0, 1],
        [1, 2],
    ]


def test_a_sub_communicator_has_its_own_order_of_ranks(emulated: Path, tmp_path: Path) -> None:
    assert run_processes(f"{RANKS}:sub_communicator", 3, tmp_path, str(tmp_path)) == [
        [2.0, 0.0],
        [],
        [2.0, 0.0],
    ]


@pytest.mark.parametrize(
    ("about", "calls"),
    [
        ("operation", ("all_reduce #1 of 8 float32 by sum", "all_reduce #1 of 8 float32 by max")),
        ("count", ("all_reduce #1 of 8 float32 by sum", "all_reduce #1 of 5 float32 by sum")),
        ("dtype", ("all_reduce #1 of 8 float32 by sum", "all_reduce #1 of 8 int32 by sum")),
        ("root", ("broadcast #1 of 4 float32 with root 0", "broadcast #1 of 4 float32 with root 1")),
        ("order", ("all_to_all #1 of 4 float32", "all_gather #1 of 4 float32")),
    ],
)
def test_ranks_that_disagree_are_told(
    emulated: Path, tmp_path: Path, about: str, calls: tuple[str, str]
) -> None:
    told = run_processes(f"{RANKS}:disagree", 2, tmp_path, str(tmp_path), about)
    for code, reason in told:
        assert code in (E_PARA, E_REMOTE)
        assert calls[0] in reason
        assert calls[1] in reason
    assert any(f"rank 1 called {calls[1]} instead" in reason for _, reason in told) or any(
        f"rank 0 called {calls[0]} instead" in reason for _, reason in told
    )


def test_a_message_of_another_size_is_told_to_both(emulated: Path, tmp_path: Path) -> None:
    receiver, sender = run_processes(f"{RANKS}:disagree", 2, tmp_path, str(tmp_path), "message")
    assert receiver[0] == E_PARA
    assert "rank 1 sent, send #1 of 3 float32" in receiver[1]
    assert sender[0] == E_REMOTE
    assert "rank 0 of 2" in sender[1]


@pytest.mark.parametrize(
    ("other_does", "code", "words"),
    [
        ("die", E_REMOTE, "rank 1 is gone: its process ended"),
        ("stall", E_TIMEOUT, "rank 1 did not take part in time"),
        ("freeze", E_TIMEOUT, "rank 1 does not take the data in time"),
        ("destroy", E_REMOTE, "rank 1 has destroyed its communicator"),
    ],
)
def test_a_rank_that_does_not_come_is_named(
    emulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_does: str, code: int, words: str
) -> None:
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "1")
    place = (3, free_port())
    arguments = (str(tmp_path), other_does)
    ranks = [start(f"{RANKS}:wait_for_another", (rank, *place), tmp_path, *arguments) for rank in range(3)]
    try:
        errors = {rank: ranks[rank].communicate(timeout=60)[1] for rank in (0, 2)}
    finally:
        ranks[1].kill()
        ranks[1].wait()
    for rank in (0, 2):
        assert ranks[rank].returncode == 0, errors[rank]
        met, reason, seconds = json.loads((tmp_path / f"result-{rank}.json").read_text())
        assert met in (code, E_REMOTE)  # the other of the two may have been told by the first that noticed
        assert words in reason
        assert f"all_reduce #2 of {1 << 24 if other_does == 'freeze' else 3} float32 by sum" in reason
        assert seconds < 10.0  # one second, where the machine has time
        assert code != E_TIMEOUT or "1 s, HCCL_EXEC_TIMEOUT" in reason


def test_ranks_that_never_come_are_named(
    emulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "1")
    [(code, reason)] = run_processes(f"{RANKS}:join_alone", 1, tmp_path, str(tmp_path))
    assert code == E_TIMEOUT
    assert "rank 1, 2 of 3 did not join within 1 s (HCCL_CONNECT_TIMEOUT)" in reason


def test_two_processes_may_not_be_the_same_rank(emulated: Path, tmp_path: Path) -> None:
    told = run_processes(f"{RANKS}:join_as_the_same_rank", 2, tmp_path, str(tmp_path))
    assert all("two processes asked to be rank 0" in reason for _, reason in told)


def test_a_root_info_of_another_library_is_refused(emulated: Path, tmp_path: Path) -> None:
    [(code, reason)] = run_processes(f"{RANKS}:join_with_foreign_root", 1, tmp_path, str(tmp_path))
    assert code == E_PARA
    assert "was not made by HcclGetRootInfo of the emulated HCCL" in reason


@pytest.mark.parametrize(
    ("soc", "refused"),
    [
        ("Ascend910B2", {"float64 sum", "bfloat16 prod", "int16 prod", "average"}),
        ("Ascend310P3", {"float64 sum", "bfloat16 prod", "int16 prod", "average", "int16 max", "int64 sum"}),
    ],
)
def test_a_chip_refuses_what_its_manual_excludes(
    emulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soc: str, refused: set[str]
) -> None:
    monkeypatch.setenv("PORTABLE_ASCEND_SOC", soc)
    [told] = run_processes(f"{RANKS}:reduce_what_the_chip_lacks", 1, tmp_path, str(tmp_path))
    assert {name for name, (code, _) in told.items() if code == E_NOT_SUPPORT} == refused
    assert {name for name, (code, _) in told.items() if code == 0} == set(told) - refused
    assert f"HCCL on {soc} does not reduce" in told["float64 sum"][1]


def test_a_destroyed_communicator_is_refused(emulated: Path, tmp_path: Path) -> None:
    [(code, reason)] = run_processes(f"{RANKS}:use_after_destroy", 1, tmp_path, str(tmp_path))
    assert code == E_PARA
    assert "HcclAllReduce: the communicator was never made or is destroyed" in reason
