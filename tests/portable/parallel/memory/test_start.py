from __future__ import annotations

from pathlib import Path

import pytest

from portable.testing.process import run_processes
from tests.portable.parallel.memory.case_start import LAYOUTS

SLACK = 24 << 20  # what the allocator and the libraries take besides


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell a peak")
def test_beginning_takes_a_ranks_own_part_and_one_whole_parameter(tmp_path: Path):
    ranks = run_processes("tests.portable.parallel.memory.case_start:together", 2, tmp_path)
    for report in ranks:
        for name in LAYOUTS:
            found = report[name]
            # Buckets of zero1 publish what was filled in, through buffers as large as all of them.
            besides = found["held"] if name == "zero1" else 2 * found["largest"]
            assert found["peak"] <= found["held"] + besides + SLACK, (name, found)
        assert report["fsdp"]["held"] <= report["fsdp"]["whole"] // 2 + 4096
        assert report["fsdp"]["peak"] < report["fsdp"]["whole"]
