"""Every row of the NPU answers the conformance cases of its op, on the emulated chip."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from backends.ascend.kernels import ENTRIES
from portable.kernel.conformance.check import check_row
from portable.kernel.entry import KernelEntry

pytestmark = [pytest.mark.ascend_emulation, pytest.mark.slow]
CASES = [(entry, dtype) for entry in ENTRIES for dtype in entry.dtypes]


@pytest.mark.parametrize(("entry", "dtype"), CASES, ids=[f"{e.spec.id}-{dtype}" for e, dtype in CASES])
def test_row_is_as_near_to_float64_as_the_reference(torch_npu: ModuleType, entry: KernelEntry, dtype: str):
    report = check_row(entry, torch.device("npu", 0), dtype)
    assert not [f"{failure.case}: {failure.reason}" for failure in report.failures]
    assert report.num_run > 3
