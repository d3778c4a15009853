from __future__ import annotations

from pathlib import Path

import pytest

from portable.testing.process import run_processes
from tests.portable.parallel.memory.case_start import LAYOUTS, SIMULATED

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


def test_a_device_holds_its_part_and_the_buffers_of_two_buckets(tmp_path: Path):
    bucket = 25 << 20  # or one parameter, if that is larger
    for report in run_processes("tests.portable.parallel.memory.case_start:on_simulator", 2, tmp_path):
        for name in SIMULATED:
            found = report[name]
            # A bucket travels with this rank's half beside it. The simulated communicator keeps what its last
            # call moved until the next one, so the bucket before is there still.
            last = max(bucket, found["largest"]) * 3 // 2 if name.startswith("zero") else 0
            before = bucket * 3 // 2 if last else 0
            assert found["peak"] <= found["held"] + last + before + (2 << 20), (name, found)
            assert found["used"] <= found["held"] + last + (1 << 20), (name, found)
