import subprocess
import sys
import time

import pytest

from portable.job.meter import Meter


def test_sees_the_memory_of_a_worker_process() -> None:
    code = "x = bytearray(150_000_000); x[::4096] = b'1' * len(x[::4096]); import time; time.sleep(0.6)"
    with Meter() as without:
        time.sleep(0.2)
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert meter.peak_memory_bytes - without.peak_memory_bytes > 100_000_000
    assert meter.time_s > 0.5


def test_measures_a_block_that_fails() -> None:
    meter = Meter()
    with pytest.raises(ValueError, match="inside"), meter:
        raise ValueError("inside")
    assert meter.peak_memory_bytes > 0
