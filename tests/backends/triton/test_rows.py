"""Every Triton row against its reference: the cases of conformance, but for those too large for an
interpreter."""

import os
from itertools import product
from typing import Any

import pytest
import torch

from backends.triton.kernels import entries
from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.check import check_row

pytestmark = pytest.mark.triton_interpreter

ROWS = {row.spec.id: row for row in entries("cuda")}
# A program takes milliseconds in the interpreter. On a GPU all cases are asked: PORTABLE_ALL_CASES=1 does so
# here.
SMALL = os.environ.get("TRITON_INTERPRET") == "1" and not os.environ.get("PORTABLE_ALL_CASES")


def cases(op_id: str):
    slow = {"large", "many"} if SMALL else set()
    return [case for case in cases_of(op_id) if not slow & set(case.id.split("/")[1].split("_"))]


def rows_and_dtypes() -> list[Any]:  # Any: pytest's parameters
    """Every row in every format. Slow: fp16, which takes the way of bf16; and of the two attentions, which
    are the same kernels, one in each format."""
    slow = {("attention", "fp32"), ("attention__with_lse", "bf16")}
    slow |= {(op_id, "fp16") for op_id in ROWS}
    return [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair in slow else [], id="-".join(pair))
        for pair in product(ROWS, ("fp32", "bf16", "fp16"))
    ]


@pytest.mark.parametrize(("op_id", "dtype"), rows_and_dtypes())
def test_row_is_as_good_as_the_reference(op_id: str, dtype: str, device: torch.device):
    report = check_row(ROWS[op_id], device, dtype, cases=cases(op_id))
    assert report.num_run > 0
    assert report.passed, "\n".join(f"{result.case}: {result.reason}" for result in report.failures)
