import pytest
import torch

from backends.liger.kernels import entries
from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.check import check_row

ROWS = {row.spec.id: row for row in entries("cuda")}


@pytest.mark.triton_interpreter
@pytest.mark.parametrize("dtype", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("op_id", ROWS)
def test_row_is_as_good_as_the_reference(op_id: str, dtype: str, device: torch.device):
    cases = [case for case in cases_of(op_id) if device.type != "cpu" or "large" not in case.id]
    report = check_row(ROWS[op_id], device, dtype, cases=cases)
    assert report.num_run > 0
    assert report.passed, "\n".join(f"{result.case}: {result.reason}" for result in report.failures)


def test_rows_stand_below_our_own():
    assert all(row.priority < 10 for row in entries("rocm"))
