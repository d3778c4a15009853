import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.flag_gems.kernels import entries
from portable.kernel.op import complete_facts

ROWS = {row.spec.id: row for row in entries("cuda")}


def test_rows_hand_over_what_the_functions_take_and_return_what_the_reference_does():
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.flag_gems.case_rows"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("op_id", ["rope__half", "rope__interleave"])
def test_heads_that_turn_in_part_are_refused(op_id: str):
    row = ROWS[op_id]
    assert row.constraint is not None
    assert row.constraint(complete_facts(row.spec, {"head_dim": 128, "rotary_dim": 128})) == ""
    assert "rotary_dim 64" in row.constraint(complete_facts(row.spec, {"head_dim": 128, "rotary_dim": 64}))


def test_rows_stand_below_our_own():
    assert all(row.priority < 10 for row in entries("rocm"))
