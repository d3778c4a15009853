"""Log-probabilities that keep the softmax for the backward pass. Shapes: N tokens, D hidden, V vocabulary.

With p = softmax(hidden weight^T / temperature), s the gradient of the results over the temperature, and e
the rows of the weight that are aimed at, d hidden = s (e - p weight) and d weight = sum s (onehot - p)
hidden^T: the backward pass multiplies by p as it was kept, and touches no other N * V numbers.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference import log_prob as reference
from portable.kernel.reference.log_prob import CHUNK_ROWS, check_inputs, without_ignored
from portable.kernel.reference.precision import matmul_operands

# 256 MiB in float32: beyond, memory counts for more than the second matmul that keeping saves.
MAX_KEPT_VALUES = 2**26

Softmax = Callable[[Tensor, Tensor, float], Tensor]
"""Puts softmax(logits / temperature) in the logits' place and returns the logarithms at the targets."""


def token_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Compute ``token_log_probs`` of the reference, with N * V numbers kept where that is affordable.

    Chunks of rows that fit in cache make this faster than one large softmax, too: see README.md here.
    """
    return compute_log_probs(hidden_ND, weight_VD, targets_N, temperature, softmax_by_torch)


def compute_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float, softmax: Softmax
) -> Tensor:
    """Compute the op by ``softmax``; 16-bit formats, too coarse for probabilities, by the reference."""
    check_inputs(hidden_ND, weight_VD, targets_N, temperature)
    hidden, weight = matmul_operands(hidden_ND, weight_VD)
    # Autocast may narrow what came in as float32.
    if hidden.dtype not in (torch.float32, torch.float64) or weight.numel() == 0:
        return reference.token_log_probs(hidden_ND, weight_VD, targets_N, temperature=temperature)
    return without_ignored(partial(_run, softmax), hidden, weight, targets_N, temperature)


def softmax_by_torch(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Do what ``Softmax`` says."""
    if temperature != 1.0:
        logits /= temperature
    log_norm = logits.logsumexp(-1, keepdim=True)
    log_probs = (logits.gather(-1, targets.unsqueeze(-1)) - log_norm).squeeze(-1)
    logits.sub_(log_norm).exp_()
    return log_probs


def _run(softmax: Softmax, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return _LogProbs.apply(hidden, weight, targets.contiguous(), temperature, softmax)


class _LogProbs(torch.autograd.Function):
    """Keeps the probabilities of the forward pass, or computes them again if they are too many."""

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, softmax: Softmax
    ) -> Tensor:
        keep = any(ctx.needs_input_grad) and hidden.shape[0] * weight.shape[0] <= MAX_KEPT_VALUES
        log_probs: list[Tensor] = []
        kept: list[Tensor] = []
        for rows, index in zip(hidden.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True):
            probs = rows @ weight.T
            log_probs.append(softmax(probs, index, temperature))
            if keep:
                kept.append(probs)
        ctx.temperature = temperature
        ctx.softmax = softmax
        ctx.save_for_backward(hidden, weight, targets, *kept)
        return torch.cat(log_probs)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, *_ = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        pull = (grad_outputs[0] / ctx.temperature).unsqueeze(-1)
        scaled = hidden * pull
        grad_hidden = weight[targets] if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        for rows, probs in _chunks_of_probs(ctx):
            if grad_hidden is not None:
                grad_hidden[rows].addmm_(probs, weight, alpha=-1)
            if grad_weight is not None:
                grad_weight.addmm_(probs.T, scaled[rows], alpha=-1)
        if grad_hidden is not None:
            grad_hidden *= pull
        if grad_weight is not None:
            grad_weight.index_add_(0, targets, scaled)
        return grad_hidden, grad_weight, None, None, None


def _chunks_of_probs(ctx: Any) -> Generator[tuple[slice, Tensor]]:  # Any: the context is torch's own
    hidden, weight, targets, *kept = ctx.saved_tensors
    for number, start in enumerate(range(0, hidden.shape[0], CHUNK_ROWS)):
        rows = slice(start, start + CHUNK_ROWS)
        if kept:
            yield rows, kept[number]
        else:
            probs = hidden[rows] @ weight.T
            ctx.softmax(probs, targets[rows], ctx.temperature)
            yield rows, probs
