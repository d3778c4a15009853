"""The boxed kernel on a real device type. A process can hold one such device, so the cases run in a child."""

import pytest

from tests.backends.redispatch.case_redispatch import CASES
from tests.processes import run_processes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    return run_processes(
        "tests.backends.redispatch.case_redispatch:run",
        1,
        tmp_path_factory.mktemp("redispatch"),
        timeout_s=900.0,  # the first run compiles the device
    )[0]


@pytest.mark.parametrize("case", CASES)
def test_the_boxed_kernel(outcomes, case):
    assert not outcomes[case], outcomes[case]
