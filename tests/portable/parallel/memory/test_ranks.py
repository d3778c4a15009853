"""Recomputation, tiles, 8-bit matmuls and loss scaling on two ranks, against the same layout without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.parallel.memory.case_memory import NARROW, TILED
from tests.portable.parallel.memory.case_recompute import LAYOUTS, MODES

HERE = "tests.portable.parallel.memory"
SLOW = tuple(name for name in LAYOUTS if name not in ("tp+sp", "ep, fsdp"))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_processes(f"{HERE}.case_memory:together", 2, tmp_path_factory.mktemp("ranks"))[0]


def _recompute(folder: Path, *layouts: str) -> None:
    for report in run_processes(f"{HERE}.case_recompute:together", 2, folder, *layouts, timeout_s=600):
        for layout in layouts:
            for mode in MODES:
                assert report[layout][mode] == report[layout]["none"], (layout, mode)


def test_recomputation_changes_no_bit(tmp_path: Path):
    _recompute(tmp_path, "tp+sp", "ep, fsdp")


@pytest.mark.slow
def test_recomputation_changes_no_bit_in_any_layout(tmp_path: Path):
    _recompute(tmp_path, *SLOW)


@pytest.mark.parametrize("layout", TILED)
@pytest.mark.parametrize(
    "change", ["tiles", "tiles and recomputation", "tiled weights", "tiled weights and rows"]
)
def test_tiles_change_sums_in_their_last_bits_only(changed: dict[str, Any], layout: str, change: str):
    whole, tiled = changed[layout]["nothing"], changed[layout][change]
    assert tiled["losses"] == pytest.approx(whole["losses"], abs=2e-6)
    assert tiled["norms"] == pytest.approx(whole["norms"], rel=1e-5)
    for name, values in whole["weights"].items():
        assert tiled["weights"][name] == pytest.approx(values, abs=5e-5), name


@pytest.mark.parametrize("layout", NARROW)
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_eight_bits_stay_near_sixteen(changed: dict[str, Any], layout: str, recipe: str):
    sixteen, eight = changed[layout]["bf16"], changed[layout][recipe]
    assert eight["losses"] == pytest.approx(sixteen["losses"], abs=2e-3)
    assert eight["norms"] == pytest.approx(sixteen["norms"], rel=1e-2)
    assert eight["losses"] != sixteen["losses"]


@pytest.mark.parametrize("layout", NARROW)
def test_fp16_trains_with_a_scaled_loss(changed: dict[str, Any], layout: str):
    sixteen, scaled = changed[layout]["bf16"], changed[layout]["fp16"]
    assert scaled["losses"] == pytest.approx(sixteen["losses"], abs=1e-3)
    assert scaled["norms"] == pytest.approx(sixteen["norms"], rel=5e-3)


@pytest.mark.parametrize("layout", NARROW)
def test_steps_that_overflow_are_left_out(changed: dict[str, Any], layout: str):
    first, skipped = changed[layout]["fp16"], changed[layout]["fp16, overflowing"]
    assert skipped["norms"] == [0.0] * 4
    assert skipped["losses"][0] == first["losses"][0]
    assert skipped["weights"] != first["weights"]


def test_overflowing_steps_leave_the_weights_alone_under_every_strategy(changed: dict[str, Any]):
    weights = [changed[layout]["fp16, overflowing"]["weights"] for layout in NARROW]
    assert all(found == weights[0] for found in weights)
