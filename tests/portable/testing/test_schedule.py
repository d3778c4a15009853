"""What stays together when a session is divided among workers."""

from pathlib import Path

import pytest

from portable.testing.schedule import scope_of


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/contract/test_device.py::test_copy[cpu]", "backend cpu"),
        ("tests/contract/test_collective.py::test_sum[2-ranks-sim]", "backend sim"),
        ("tests/test_a.py::test_one", "tests/test_a.py"),
        ("tests/test_a.py::test_two[cpus-4]", "tests/test_a.py"),
        ("tests/test_a.py::TestIt::test_three[a::b]", "tests/test_a.py"),
    ],
)
def test_a_backends_tests_stay_together_and_a_files(nodeid: str, scope: str, tmp_path: Path) -> None:
    assert scope_of(nodeid, ["cpu", "sim"], tmp_path) == scope


def test_the_files_of_a_folder_that_shares_fixtures_stay_together(tmp_path: Path) -> None:
    shared, alone = tmp_path / "tests" / "shared", tmp_path / "tests" / "shared" / "alone"
    alone.mkdir(parents=True)
    (shared / "conftest.py").touch()
    scopes = [scope_of(f"tests/shared/{name}.py::test[cpu]", ["sim"], tmp_path) for name in ("a", "b")]
    assert scopes == ["tests/shared"] * 2
    assert scope_of("tests/shared/alone/c.py::test", ["sim"], tmp_path) == "tests/shared/alone/c.py"
    assert scope_of("tests/shared/a.py::test[sim]", ["sim"], tmp_path) == "backend sim"
