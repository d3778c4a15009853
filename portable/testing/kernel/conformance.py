"""Every row that the backend may use, against float64."""

from __future__ import annotations

import pytest

from portable.device.capability import Role, Support
from portable.device.protocol import Device
from portable.kernel.conformance.check import check_row
from portable.kernel.conformance.report import Examined, failures
from portable.kernel.entry import ANY, REFERENCE
from portable.kernel.op import OPS
from portable.kernel.registry import KernelSet, all_entries

# One format finds what is wrong in the mathematics; the shorter ones find what is rounded too early, and take
# as long again.
DTYPES = [
    "fp32",
    pytest.param("bf16", marks=pytest.mark.slow),
    pytest.param("fp16", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op_id", [op.id for op in OPS])
def test_every_row_errs_no_more_than_a_few_times_as_much_as_its_reference(
    device: Device, op_id: str, dtype: str
) -> None:
    """Forward and backward, on every case of the op: sizes, layouts, extremes, mixed formats."""
    if device.capability().dtype(Role.matmul, dtype) is Support.none:
        pytest.skip(f"{device.arch} does not multiply {dtype}; the suite of the device sees it refused")
    rows = [
        entry
        for entry in all_entries(device.name)
        if entry.spec.id == op_id
        and entry.backend in (ANY, device.name)
        and entry.name != REFERENCE
        and dtype in entry.dtypes
    ]
    reports = [Examined(row, {dtype: check_row(row, device.torch_device(), dtype)}) for row in rows]
    wrong = [text for report in reports for text in failures(report)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_what_is_picked_by_default_can_be_loaded(device: Device, dtype: str) -> None:
    """An op without a row of the backend's own has one in plain torch."""
    kernels = KernelSet(device.name, dtype)
    for op in OPS:
        assert callable(kernels.pick(op.name, op.variant)), op.id
    assert [choice.op for choice in kernels.trace] == [op.id for op in OPS]
