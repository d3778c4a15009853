"""Compiled blocks on two ranks against the same layouts as they are; the first compilation takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from portable.testing.process import run_processes
from tests.portable.parallel.memory.case_compile import LAYOUTS


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "full", "selective"])
def test_compiled_blocks_compute_the_same(tmp_path: Path, mode: str):
    target = "tests.portable.parallel.memory.case_compile:together"
    for report in run_processes(target, 2, tmp_path, mode, timeout_s=1800):
        for layout in LAYOUTS:
            eager, compiled = report[layout]["eager"], report[layout]["compiled"]
            assert compiled["losses"] == pytest.approx(eager["losses"], abs=2e-6), layout
            assert compiled["norms"] == pytest.approx(eager["norms"], rel=1e-5), layout
            assert compiled["graphs"] > 0
            assert compiled["modules"]["compiled"], layout
            assert set(compiled["breaks"]) <= {"Skip calling `torch.compiler.disable()`d function"}, layout
