"""What stays together when a session is divided among workers."""

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
def test_a_backends_tests_stay_together_and_a_files(nodeid: str, scope: str) -> None:
    assert scope_of(nodeid, ["cpu", "sim"]) == scope
