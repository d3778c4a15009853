import subprocess
import sys

from backends.cpu.kernels import ENTRIES
from portable.core.registry import load_target
from portable.kernel.registry import KernelSet


def test_rows_load_and_are_taken_on_a_cpu():
    kernels = KernelSet("cpu", "fp32")
    for entry in ENTRIES:
        assert entry.backend == "cpu"
        assert kernels.pick(entry.op) is load_target(entry.target)


def test_rows_are_not_taken_elsewhere():
    kernels = KernelSet("elsewhere", "fp32")
    for entry in ENTRIES:
        assert kernels.pick(entry.op) is not load_target(entry.target)


def test_listing_rows_imports_no_torch():
    code = "import sys, backends.cpu.kernels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
