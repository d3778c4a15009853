"""Schedule files: torch's reads ours, ours reads torch's, and a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed.pipelining.schedules import _Action

from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig
from portable.parallel.pipeline.schedule.file import read_table, write_table
from portable.parallel.pipeline.schedule.select import make_schedule


def config(path: Path | str = "", degree: int = 2) -> ParallelConfig:
    return ParallelConfig(
        pipeline_parallel_degree=degree,
        pipeline_parallel_schedule="ZBVZeroBubble",
        pipeline_parallel_schedule_csv=str(path),
    )


def test_what_is_written_is_read_again_by_us_and_by_torch(tmp_path: Path) -> None:
    table = make_schedule(config()).table(4)
    path = tmp_path / "schedule.csv"
    write_table(table, path)
    assert read_table(path).rows == table.rows
    words = [line.split(",") for line in path.read_text().split()]
    assert [[str(_Action.from_str(word)) for word in row] for row in words] == words


def test_idle_slots_transfers_and_overlaps_of_torchs_files_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "schedule.csv"
    path.write_text(
        "0UNSHARD,0F0,0SEND_F0,0F1,,3RECV_F0,3F0,3F1,3B0,(3B1;0B0)OVERLAP_F_B,0B1,0REDUCE_GRAD\n"
        ",1RECV_F0,1F0,2F0,1F1,2F1,2B0,2B1,1B0,1B1\n"
    )
    table = read_table(path)
    assert " ".join(map(str, table.rows[0])) == "0F0 0F1 3F0 3F1 3B0 3B1 0B0 0B1"
    assert table.stage_rank == (0, 1, 1, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0F0,0X0\n", "row 0, cell 1: '0X0' is no action"),
        ("0F0,(0B0;nothing)OVERLAP_F_B\n", "row 0, cell 1: .* is no action"),
        ("0F0,0B0\n1B0,1F0\n", r"row 1 stops before action 0 \(1B0\)"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "schedule.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_table(path)


def test_a_file_for_other_ranks_or_micro_batches_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schedule.csv"
    path.write_text("0F0,0B0\n1F0,1B0\n")
    with pytest.raises(ConfigError, match=r"use parallel\.pipeline_parallel_degree=2"):
        make_schedule(config(path, degree=3))
    with pytest.raises(ConfigError, match="a schedule for 1 micro-batches, but a step has 4; accumulate 1"):
        make_schedule(config(path)).table(4)
    path.write_text("0F0,0B0\n\n1F0,1B0\n")
    assert make_schedule(config(path)).table(1).stage_rank == (0, 1)
