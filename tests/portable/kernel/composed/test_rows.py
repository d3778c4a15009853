import pytest
import torch

from portable.core.registry import load_target
from portable.kernel.composed.rows import ENTRIES
from portable.kernel.conformance.check import check_row
from portable.kernel.entry import ANY


@pytest.mark.parametrize("row", ENTRIES, ids=lambda row: row.spec.id)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_row_passes_its_cases(row, dtype):
    report = check_row(row, torch.device("cpu"), dtype)
    assert report.failures == ()
    assert report.num_refused == 0


def test_rows_fit_every_device_and_are_named_alike():
    assert {(row.name, row.backend) for row in ENTRIES} == {("composed", ANY)}
    assert all(callable(load_target(row.target)) for row in ENTRIES)
