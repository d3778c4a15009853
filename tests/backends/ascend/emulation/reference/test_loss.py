from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check

pytestmark = pytest.mark.ascend_emulation

N, C = 7, 5


def logits() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(N, C)


TARGET = torch.tensor([0, 4, 2, 4, 1, 3, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(torch_npu: ModuleType, reduction: str, weighted: bool, smoothing: float) -> None:
    weight = torch.rand(C) + 0.1 if weighted else None

    def ours(x: Tensor) -> tuple[Tensor, Tensor]:
        given = None if weight is None else weight.npu()
        return torch_npu.npu_cross_entropy_loss(
            x, TARGET.npu(), given, reduction=reduction, label_smoothing=smoothing
        )[:2]

    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        given = None if weight is None else weight.double()
        loss = F.cross_entropy(x, TARGET, given, reduction=reduction, label_smoothing=smoothing)
        return loss.reshape(-1), x.log_softmax(1)

    check(ours, plain, logits())


def test_cross_entropy_ignores_a_class_of_its_own(torch_npu: ModuleType) -> None:
    ignored = TARGET.masked_fill(TARGET == 2, 0)
    check(
        lambda x: torch_npu.npu_cross_entropy_loss(x, ignored.npu(), reduction="none", ignore_index=0)[0],
        lambda x: F.cross_entropy(x, ignored, reduction="none", ignore_index=0),
        logits(),
    )


@pytest.mark.parametrize("target", [-100, -1, C])
def test_a_target_that_is_no_class_is_refused(torch_npu: ModuleType, target: int) -> None:
    """A negative ignore_index, as is the default, ignores nothing."""
    with pytest.raises(RuntimeError, match="targets must lie"):
        torch_npu.npu_cross_entropy_loss(logits().npu(), torch.full((N,), target).npu(), reduction="none")


def test_z_loss_is_refused(torch_npu: ModuleType) -> None:
    with pytest.raises(NotImplementedError, match="z loss"):
        torch_npu.npu_cross_entropy_loss(logits().npu(), TARGET.npu(), return_zloss=True)


def test_softmax_cross_entropy_with_logits(torch_npu: ModuleType) -> None:
    labels = torch.rand(N, C).softmax(1)
    check(
        lambda x: torch_npu.npu_softmax_cross_entropy_with_logits(x, labels.npu()),
        lambda x: -(labels.double() * x.log_softmax(1)).sum(1),
        logits(),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
def test_losses_of_torch_with_gradients_of_torch_npu(torch_npu: ModuleType, reduction: str) -> None:
    torch.manual_seed(0)
    target, scale = torch.rand(N, C), torch.rand(C)
    if reduction != "batchmean":
        check(
            lambda x: F.l1_loss(x, target.to(x.device, x.dtype), reduction=reduction),
            lambda x: F.l1_loss(x, target.to(x.device, x.dtype), reduction=reduction),
            logits(),
        )

        def with_logits(x: Tensor) -> Tensor:
            wanted, given = target.to(x.device, x.dtype), scale.to(x.device, x.dtype)
            return F.binary_cross_entropy_with_logits(
                x, wanted, given, reduction=reduction, pos_weight=given + 1
            )

        check(with_logits, with_logits, logits())
    for in_logs in (False, True):
        check(
            lambda x, t, r=reduction, log=in_logs: F.kl_div(x.log_softmax(1), t, reduction=r, log_target=log),
            lambda x, t, r=reduction, log=in_logs: F.kl_div(x.log_softmax(1), t, reduction=r, log_target=log),
            logits(),
            target.log() if in_logs else target,
        )


def test_a_gradient_that_torch_npu_loses_is_refused(torch_npu: ModuleType) -> None:
    target = torch.rand(N, C).npu().requires_grad_()
    with pytest.raises(NotImplementedError, match="no gradient for target"):
        F.binary_cross_entropy_with_logits(logits().npu(), target)
    with torch.no_grad():
        F.binary_cross_entropy_with_logits(logits().npu(), target)
