from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.ascend_emulation

P = 0.3


@pytest.mark.parametrize("name", ["_npu_dropout", "_dropout_with_byte_mask"])
def test_forward_and_backward_drop_the_same(torch_npu: ModuleType, name: str) -> None:
    x = torch.randn(40, 51).npu().requires_grad_()
    out, mask = getattr(torch.ops.npu, name)(x, P)
    out.sum().backward()
    kept = x.grad != 0
    assert torch.equal(out, x.detach() * x.grad)
    assert torch.allclose(x.grad[kept].cpu(), torch.tensor(1 / (1 - P)))
    assert kept.float().mean().item() == pytest.approx(1 - P, abs=0.05)
    assert mask.dtype == torch.uint8


def test_the_mask_holds_one_bit_an_element(torch_npu: ModuleType) -> None:
    x = torch.ones(1000).npu()
    out, mask = torch.ops.npu._npu_dropout(x, P)
    assert mask.numel() == 1024 // 8
    again, _ = torch.ops.npu.npu_dropout_do_mask(x, mask, P)
    assert torch.equal(out, again)


def test_dropout_of_torch(torch_npu: ModuleType) -> None:
    torch.manual_seed(1)
    first = F.dropout(torch.ones(1000, device="npu"), P)
    second = F.dropout(torch.ones(1000, device="npu"), P)
    torch.manual_seed(1)
    assert torch.equal(F.dropout(torch.ones(1000, device="npu"), P), first)
    assert not torch.equal(first, second)
