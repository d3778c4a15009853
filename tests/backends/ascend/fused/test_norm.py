"""What conformance cannot see of the normalisations: in which format weights get their gradients."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.backends.ascend.emulation.oracle import close

pytestmark = pytest.mark.ascend_emulation


@pytest.fixture
def row(torch_npu: ModuleType) -> ModuleType:
    import backends.ascend.fused.norm

    return backends.ascend.fused.norm


@pytest.mark.parametrize("name", ["rms_norm", "rms_norm_one_plus_w", "add_rms_norm"])
def test_the_gradient_of_a_float32_weight_is_not_rounded_to_16_bits(row: ModuleType, name: str):
    """Over rows of bfloat16: through the operator's own gradient rule it would be."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = torch.full((8,), 0.5, device="npu").requires_grad_()
    given = [x.npu()] * (2 if name == "add_rms_norm" else 1)
    result = getattr(row, name)(*given, weight)
    (result[0] if isinstance(result, tuple) else result).float().sum().backward()
    wide = sum(given).cpu().double()
    expected = (wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()).sum(0)
    assert weight.grad is not None
    close(weight.grad, expected, 1e-5, "gradient")
    assert (weight.grad != weight.grad.bfloat16().float()).any()


def test_only_the_sum_may_be_used(row: ModuleType):
    x, residual, weight = (torch.ones(2, 8, device="npu").requires_grad_() for _ in range(3))
    _, total = row.add_rms_norm(x, residual, weight[0])
    total.sum().backward()
    assert x.grad is not None
    assert x.grad.cpu().tolist() == torch.ones(2, 8).tolist()
    assert weight.grad is None or not weight.grad.any()
