"""A kernel call beside its reference."""

from __future__ import annotations

import pytest
import torch

from portable.kernel.entry import KernelEntry
from portable.kernel.op import find_op
from portable.kernel.reference.norm import rms_norm
from portable.trace import replay as module
from portable.trace.replay import BACKWARD, FORWARD, KernelCall, examine

ROW = KernelEntry(op="rms_norm", name="tested", backend="any", target="none:none")


def make_call(dtype: torch.dtype = torch.float32, error: float = 0.0) -> KernelCall:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=stream).to(dtype)
    weight = torch.randn(32, generator=stream)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    out = rms_norm(*leaves, 1e-6)
    cotangent = torch.randn(out.shape, generator=stream).to(out.dtype)
    gradients = torch.autograd.grad(out, leaves, cotangent)
    return KernelCall(
        "norm:rms_norm",
        find_op("rms_norm"),
        ROW,
        {"x_BTD": x, "weight_D": weight, "eps": 1e-6},
        3,
        outputs={"": out.detach() * (1 + error)},
        grad_outputs={"": cotangent},
        grad_inputs=dict(zip(("x_BTD", "weight_D"), gradients, strict=True)),
        awaited={"x_BTD", "weight_D"},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_itself_errs_as_much_as_it_does(dtype: torch.dtype) -> None:
    result = examine(make_call(dtype))
    assert result.failure is None
    assert [deviation.phase for deviation in result.deviations] == [FORWARD, BACKWARD]
    assert all(deviation.ratio <= 1 for deviation in result.deviations)


def test_an_error_counts_in_multiples_of_what_the_format_explains() -> None:
    fine, coarse = (examine(make_call(dtype, 1e-3)) for dtype in (torch.float32, torch.bfloat16))
    assert fine.failure is not None
    assert fine.failure.ratio > 1000
    assert coarse.failure is None  # a thousandth is less than bfloat16 can tell


def test_another_shape_is_a_failure() -> None:
    call = make_call()
    call.outputs[""] = call.outputs[""][:1]
    failure = examine(call).failure
    assert failure is not None
    assert failure.text == "its shape is (1, 32) instead of (64, 32)"


def test_numbers_that_are_not_finite_are_a_failure() -> None:
    call = make_call()
    call.outputs[""][3, 4] = torch.nan
    failure = examine(call).failure
    assert failure is not None
    assert "at (3, 4)" in failure.text


def test_what_is_too_large_for_the_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ELEMENTS", 2000)
    result = examine(make_call())
    assert (
        result.skipped
        == "its arguments hold 2,080 numbers, more than the 2,000 that are repeated on the host"
    )
    assert result.failure is None


def test_what_the_host_cannot_compute_is_told() -> None:
    call = make_call()
    call.arguments["x_BTD"] = call.arguments["x_BTD"].to("meta")
    assert examine(call).skipped.startswith("its reference cannot be repeated on the host: ")
