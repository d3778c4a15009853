from __future__ import annotations

from typing import Any

import pytest

from portable.testing.process import run_processes

CASE = "tests.portable.parallel.expert.case_ranks:run"


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 2, tmp_path_factory.mktemp("pair"), "cpu", "dispatch", "mixture")


@pytest.fixture(scope="session")
def simulated_pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 2, tmp_path_factory.mktemp("simulated"), "sim", "dispatch")


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 4, tmp_path_factory.mktemp("four"), "cpu", "dispatch", "mixture")


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(CASE, 8, tmp_path_factory.mktemp("eight"), "cpu", "mixture", timeout_s=400.0)
