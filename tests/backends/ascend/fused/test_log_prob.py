"""The fused output head against the reference in float64: gradients, ignored tokens, temperature, float32."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from portable.kernel.reference import log_prob as reference
from tests.backends.ascend.emulation.oracle import check

pytestmark = pytest.mark.ascend_emulation

N, D, V = 13, 16, 200


@pytest.fixture
def row(torch_npu: ModuleType) -> ModuleType:
    import backends.ascend.fused.log_prob

    return backends.ascend.fused.log_prob


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=stream).to(dtype) / 4, torch.randn(V, D, generator=stream).to(dtype)


TARGETS = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(1))
IGNORED = TARGETS.masked_fill(torch.arange(N) % 3 == 0, -100)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("targets", [TARGETS, IGNORED, torch.full((N,), -1)], ids=["all", "some", "none"])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3), (torch.float32, 1e-5)]
)
def test_values_and_gradients(
    row: ModuleType, dtype: torch.dtype, rtol: float, targets: Tensor, temperature: float
):
    def call(module: ModuleType, hidden: Tensor, weight: Tensor) -> Tensor:
        return module.token_log_probs(hidden, weight, targets.to(hidden.device), temperature=temperature)

    check(lambda *x: call(row, *x), lambda *x: call(reference, *x), *inputs(dtype), rtol=rtol)


def test_a_float32_weight_gets_a_float32_gradient(row: ModuleType):
    hidden, weight = (x.npu() for x in inputs(torch.bfloat16))
    weight = weight.float().requires_grad_()
    out = row.token_log_probs(hidden, weight, TARGETS.npu())
    out.sum().backward()
    assert out.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
