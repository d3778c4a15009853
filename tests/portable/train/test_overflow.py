"""An overflow of fp16 costs a step and half of the factor; anything else that is not finite ends the run."""

from __future__ import annotations

from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.train.case_overflow import BAD_STEP, STEPS, STRATEGIES


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_processes("tests.portable.train.case_overflow:together", 2, folder)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_overflow_of_one_rank_costs_all_ranks_one_step(ranks: list[dict[str, Any]], strategy: str):
    for report in ranks:
        found, fine = report[strategy]["inf"], report[strategy]["fine"]
        assert found["diverged"] is None
        assert found["scale"] == {"loss_scale": 512.0, "skipped_steps": 1.0}
        assert fine["scale"] == {"loss_scale": 1024.0, "skipped_steps": 0.0}
        assert found["weights"] == ranks[0][strategy]["inf"]["weights"] != fine["weights"]
    rows = ranks[0][strategy]["inf"]["rows"]
    assert len(rows) == STEPS
    assert [row["loss"] is None for row in rows] == [step == BAD_STEP for step in range(1, STEPS + 1)]
    assert rows[BAD_STEP - 1]["grad_norm"] == 0.0
    assert rows[BAD_STEP]["skipped_steps"] == 1.0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("trouble", ["inf, no smaller factor", "inf, fp32"])
def test_what_no_smaller_factor_mends_ends_the_run(ranks: list[dict[str, Any]], strategy: str, trouble: str):
    for report in ranks:
        found = report[strategy][trouble]
        assert found["diverged"] == BAD_STEP
        assert "the loss is inf" in found["message"]
