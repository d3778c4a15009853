"""DDP and FSDP over two real processes; that they train what one process trains is in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes import run_processes


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(
        "tests.portable.parallel.strategies.case_spread:run", 2, tmp_path_factory.mktemp("spread")
    )


def test_ddp_gradients_travel_with_the_last_backward_only(reports: list[dict[str, Any]]):
    assert all(report["synced"] == [False, True] for report in reports)


def test_fsdp_gradients_are_the_mean_over_ranks(reports: list[dict[str, Any]]):
    assert all(report["fp32_fsdp"] < 1e-5 for report in reports)


@pytest.mark.parametrize("name", ["bf16_ddp", "bf16_fsdp", "wide_ddp"])
def test_narrow_formats_are_really_used_and_stay_near(reports: list[dict[str, Any]], name: str):
    assert all(1e-4 < report[name] < 0.05 for report in reports)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_unwrapped_model_is_noticed(reports: list[dict[str, Any]], strategy: str):
    told = f"strategy={strategy} was given a Linear; call wrap() first and train its result"
    assert all(report[f"unwrapped_{strategy}"] == told for report in reports)


def test_single_refuses_two_processes(reports: list[dict[str, Any]]):
    assert all("strategy=single with 2 processes" in report["single"] for report in reports)
