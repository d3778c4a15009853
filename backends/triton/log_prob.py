"""The output head and the log-softmax in one op. Shapes: N tokens, D hidden, V vocabulary.

The matmuls are torch's; a chunk of logits is then read by one kernel forward and by one backward, which
writes the gradient in the format of the matmul that follows.
"""

from typing import Any

import torch
from torch import Tensor

from backends.triton.launch import NAMESPACE
from backends.triton.softmax import row_statistics, softmax_gradient
from portable.kernel.reference.log_prob import check_inputs, without_ignored
from portable.kernel.reference.precision import matmul_operands

MAX_LOGITS = 2**26  # alive at a time: 128 MiB in 16 bits
_MIN_ROWS = 256  # fewer make a matmul too thin


def token_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Compute ``token_log_probs`` of the reference."""
    check_inputs(hidden_ND, weight_VD, targets_N, temperature)
    hidden, weight = matmul_operands(hidden_ND, weight_VD)
    return without_ignored(_counted, hidden, weight, targets_N, temperature)


def _counted(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return _log_probs(hidden, weight, targets, temperature)[0]


@torch.library.custom_op(f"{NAMESPACE}::token_log_probs", mutates_args=())
def _log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(target), and the peak and the sum of every row."""
    statistics = [
        row_statistics(hidden[rows] @ weight.T, targets[rows], 0, temperature)
        for rows in _chunks(hidden, weight)
    ]
    peaks, sums, chosen = (torch.cat(parts) for parts in zip(*statistics, strict=True))
    return (chosen - peaks) - sums.log(), peaks, sums


@_log_probs.register_fake
def _(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    log_probs, peaks, sums = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3))
    return log_probs, peaks, sums


@torch.library.custom_op(f"{NAMESPACE}::token_log_probs_backward", mutates_args=())
def _backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    peaks: Tensor,
    sums: Tensor,
    temperature: float,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of hidden and weight; one that is not needed is empty."""
    grad_hidden = torch.empty_like(hidden) if needs_hidden else hidden.new_empty(0)
    # Chunks add up in float32: their number must not decide how much is rounded away.
    grad_weight = torch.zeros(weight.shape if needs_weight else 0, dtype=torch.float32, device=weight.device)
    for rows in _chunks(hidden, weight):
        logits = hidden[rows] @ weight.T
        grad_logits = softmax_gradient(
            -grad[rows], logits, targets[rows], peaks[rows], sums[rows], 0, temperature, 0.0
        )
        if needs_hidden:
            torch.mm(grad_logits, weight, out=grad_hidden[rows])
        if needs_weight:
            grad_weight += grad_logits.T @ hidden[rows]
    return grad_hidden, grad_weight.to(weight.dtype)


@_backward.register_fake
def _(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    peaks: Tensor,
    sums: Tensor,
    temperature: float,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    grad_hidden = torch.empty_like(hidden) if needs_hidden else hidden.new_empty(0)
    return grad_hidden, torch.empty_like(weight) if needs_weight else weight.new_empty(0)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets, ctx.temperature = inputs
    ctx.save_for_backward(hidden, weight, targets, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    needs_hidden, needs_weight = ctx.needs_input_grad[:2]
    grad_hidden, grad_weight = _backward(
        grad, *ctx.saved_tensors, ctx.temperature, needs_hidden, needs_weight
    )
    return grad_hidden if needs_hidden else None, grad_weight if needs_weight else None, None, None


_log_probs.register_autograd(_gradients, setup_context=_keep)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    step = max(_MIN_ROWS, MAX_LOGITS // max(weight.shape[0], 1))
    # One empty chunk for no rows at all, so that the results can still be concatenated.
    return [slice(start, start + step) for start in range(0, max(1, hidden.shape[0]), step)]
