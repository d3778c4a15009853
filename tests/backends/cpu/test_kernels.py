import subprocess
import sys

import torch

from backends.cpu.kernel import log_prob
from backends.cpu.kernels import ENTRIES
from portable.core.registry import load_target
from portable.kernel.config import KernelConfig
from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.check import check_row
from portable.kernel.registry import KernelSet


def test_rows_load_and_can_be_named_on_a_cpu():
    for entry in ENTRIES:
        assert entry.backend == "cpu"
        policy = KernelConfig(rows={entry.spec.id: entry.name})
        assert KernelSet("cpu", "fp32", policy).pick(entry.op, entry.variant) is load_target(entry.target)


def test_of_two_rows_the_native_one_is_taken():
    assert KernelSet("cpu", "fp32").rank("token_log_probs")[0].name == "native"


def test_without_a_compiler_the_native_rows_say_so_and_others_are_taken(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels = KernelSet("cpu", "fp32")
    assert kernels.pick("token_log_probs") is log_prob.token_log_probs
    (choice,) = kernels.trace
    assert any("no C++ compiler (no-such-compiler)" in reason for reason in choice.passed_over)


def test_every_row_passes_some_cases_of_its_op():
    for entry in ENTRIES:
        cases = cases_of(entry.spec.id)[:6]
        report = check_row(entry, torch.device("cpu"), "fp32", cases=cases)
        assert report.num_run, entry.name
        assert report.passed, report.failures


def test_rows_are_not_taken_elsewhere():
    kernels = KernelSet("elsewhere", "fp32")
    for entry in ENTRIES:
        assert kernels.pick(entry.op, entry.variant) is not load_target(entry.target)


def test_listing_rows_imports_no_torch():
    code = "import sys, backends.cpu.kernels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
