"""The certificate finds every planted fault, and where it lies."""

from pathlib import Path
from typing import Any

import pytest

from portable.testing.process import free_port, run_processes
from tests.portable.certificate.fault import FAULTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("faults")
    target = "tests.portable.certificate.fault:all_faults"
    ports = [str(free_port()) for _ in FAULTS]
    return run_processes(target, 2, folder, str(folder), *ports, timeout_s=300.0)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_where_it_lies(told: list[dict[str, Any]], name: str) -> None:
    _, _, where, phase = FAULTS[name]
    first, other = (report[name] for report in told)
    assert first["code"] == other["code"] == (1 if where else 0), first["page"]
    assert other["page"] == ""  # only the first rank prints
    departure = first["certificate"]["departure"]
    if not where:
        assert first["certificate"]["agrees"]
        assert departure is None
        return
    assert (departure["name"], departure["phase"]) == (where, phase), first["page"]
    assert f"First: {where}, {phase}, rank" in first["page"]
