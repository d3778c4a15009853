from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.backends.ascend.emulation.oracle import check

pytestmark = pytest.mark.ascend_emulation


@pytest.mark.parametrize(
    ("perm", "shape", "first"), [((0, 2, 1, 3), (2, 4, 18), True), ((0, 2, 1), (2, 12, 6), False)]
)
def test_confusion_transpose(
    torch_npu: ModuleType, perm: tuple[int, ...], shape: tuple[int, ...], first: bool
) -> None:
    check(
        lambda x: torch_npu.npu_confusion_transpose(x, perm, shape, first),
        lambda x: x.permute(perm).reshape(shape) if first else x.reshape(shape).permute(perm),
        torch.randn(2, 3, 4, 6),
    )


def test_dtype_cast_and_its_gradient(torch_npu: ModuleType) -> None:
    x = torch.randn(5).npu().requires_grad_()
    cast = torch_npu.npu_dtype_cast(x, torch.bfloat16)
    assert torch.equal(cast.cpu(), x.detach().cpu().bfloat16())
    cast.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_private_formats_are_off_by_default(torch_npu: ModuleType) -> None:
    x = torch.randn(32, 32).npu()
    cast = torch_npu.npu_format_cast(x, 29)  # FRACTAL_NZ
    assert torch_npu.get_npu_format(cast) == torch_npu.get_npu_format(x)
    assert torch.equal(cast, x)


@pytest.mark.parametrize("use", ["k", "p", "both"])
def test_top_k_top_p(torch_npu: ModuleType, use: str) -> None:
    torch.manual_seed(0)
    logits, k, p = (
        torch.randn(4, 20),
        torch.tensor([1, 5, 20, 7], dtype=torch.int32),
        torch.tensor([0.9, 0.4, 0.7, 0.0]),
    )
    out = torch_npu.npu_top_k_top_p(
        logits.npu(), p.npu() if use != "k" else None, k.npu() if use != "p" else None
    ).cpu()
    for row in range(4):
        order = logits[row].argsort(descending=True)
        kept = order[: int(k[row])] if use != "p" else order
        if use != "k":
            probabilities = logits[row].double()[kept].softmax(0)
            before = probabilities.cumsum(0) - probabilities  # what the more likely ones have already
            kept = kept[(before < p[row].double()) | (torch.arange(len(kept)) == 0)]
        expected = torch.full((20,), -torch.inf).index_copy(0, kept, logits[row, kept])
        assert torch.equal(out[row], expected), row
