"""The fused output head, in the order of its three operators, against log_softmax in float64."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.backends.ascend.emulation.oracle import close

pytestmark = pytest.mark.ascend_emulation

N, D, V = 11, 8, 256


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, D, generator=stream).bfloat16() for size in (N, V))
    return hidden / 4, weight, torch.randint(0, V, (N,), generator=stream)


def test_one_rank_gives_loss_softmax_and_gradients(
    torch_npu: ModuleType, inputs: tuple[Tensor, Tensor, Tensor]
):
    hidden, weight, target = inputs
    maxima, sums, chosen, elsewhere, columns, logits = torch_npu.npu_fused_linear_online_max_sum(
        hidden.npu(), weight.npu(), target.npu(), 0, V - 1, return_logits=True
    )
    loss, softmax = torch_npu.npu_fused_cross_entropy_loss_with_max_sum(
        maxima, sums, chosen, vocab_parallel_logits=logits
    )
    exact = [x.double().requires_grad_() for x in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].T, target, reduction="none")
    close(loss, expected, 1e-5, "loss")
    close(softmax, (exact[0] @ exact[1].T).softmax(-1), 2e-2, "softmax of rounded logits")
    share = torch.linspace(-1, 1, N)
    (expected * share).sum().backward()
    gradients = torch_npu.npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
        share.npu(), hidden.npu(), weight.npu(), elsewhere, columns, logits_max=maxima, sum_exp_logits=sums
    )
    for ours, theirs in zip(gradients, exact, strict=True):
        close(ours, theirs.grad, 1e-2, "gradient")


def test_two_ranks_see_each_target_once(torch_npu: ModuleType, inputs: tuple[Tensor, Tensor, Tensor]):
    """A token's bit is set where another rank has its target; the bits left over in the last byte are set."""
    hidden, weight, target = inputs
    half = V // 2
    seen = torch.zeros(N)
    for start in (0, half):
        *_, elsewhere, columns, _ = torch_npu.npu_fused_linear_online_max_sum(
            hidden.npu(), weight[start : start + half].npu(), target.npu(), start, start + half - 1
        )
        bits = [byte >> place & 1 for byte in elsewhere.cpu().tolist() for place in range(7, -1, -1)]
        assert bits[N:] == [1] * 5
        outside = (target < start) | (target >= start + half)
        assert bits[:N] == outside.int().tolist()
        assert columns.cpu().tolist() == (target - start).masked_fill(outside, 0).tolist()
        seen += 1 - torch.tensor(bits[:N])
    assert seen.tolist() == [1.0] * N


def test_what_the_documentation_refuses(torch_npu: ModuleType, inputs: tuple[Tensor, Tensor, Tensor]):
    hidden, weight, target = (x.npu() for x in inputs)
    with pytest.raises(RuntimeError, match="float16 or bfloat16"):
        torch_npu.npu_fused_linear_online_max_sum(hidden.float(), weight.float(), target, 0, V - 1)
    with pytest.raises(RuntimeError, match="both included"):
        torch_npu.npu_fused_linear_online_max_sum(hidden, weight, target, 0, V)
    maxima, sums, _, elsewhere, columns, _ = torch_npu.npu_fused_linear_online_max_sum(
        hidden, weight[:127], target.clamp(max=126), 0, 126
    )
    with pytest.raises(RuntimeError, match="128 rows or more"):
        torch_npu.npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
            maxima, hidden, weight[:127], elsewhere, columns, logits_max=maxima, sum_exp_logits=sums
        )
    with pytest.raises(NotImplementedError, match="label_smoothing"):
        torch_npu.npu_fused_cross_entropy_loss_with_max_sum(maxima, sums, sums, label_smoothing=0.1)
