"""Log-probabilities that keep the softmax for the backward pass. Shapes: N tokens, D hidden, V vocabulary."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference import log_prob as reference
from portable.kernel.reference.log_prob import CHUNK_ROWS, check_inputs, matmul_operands, without_ignored

# 256 MiB in float32: beyond, memory counts for more than the second matmul that keeping saves.
MAX_KEPT_VALUES = 2**26


def token_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Compute ``token_log_probs`` of the reference, with N * V numbers kept where that is affordable.

    Chunks of rows that fit in cache make this faster than one large softmax, too: see README.md here.
    """
    check_inputs(hidden_ND, weight_VD, targets_N, temperature)
    hidden, weight = matmul_operands(hidden_ND, weight_VD)
    too_large = hidden.shape[0] * weight.shape[0] > MAX_KEPT_VALUES
    too_coarse = hidden.dtype in (
        torch.bfloat16,
        torch.float16,
    )  # autocast may narrow what came in as float32
    if too_large or too_coarse or not torch.is_grad_enabled():
        return reference.token_log_probs(hidden_ND, weight_VD, targets_N, temperature=temperature)
    return without_ignored(_KeptLogProbs.apply, hidden, weight, targets_N, temperature)


class _KeptLogProbs(torch.autograd.Function):
    """d log p / d logits = (onehot(target) - p) / temperature, from the p of the forward pass."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
        log_probs: list[Tensor] = []
        probs: list[Tensor] = []
        for rows, index in zip(hidden.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True):
            logits = rows @ weight.T
            if temperature != 1.0:
                logits /= temperature
            log_norm = logits.logsumexp(-1, keepdim=True)
            log_probs.append((logits.gather(-1, index.unsqueeze(-1)) - log_norm).squeeze(-1))
            probs.append(logits.sub_(log_norm).exp_())
        ctx.temperature = temperature
        ctx.save_for_backward(hidden, weight, targets, *probs)
        return torch.cat(log_probs)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, *probs = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden: list[Tensor] = []
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        scaled = (grad_outputs[0] / ctx.temperature).unsqueeze(-1)
        chunks = zip(probs, *(x.split(CHUNK_ROWS) for x in (hidden, targets, scaled)), strict=True)
        for chunk, rows, index, scale in chunks:
            grad_logits = (chunk * -scale).scatter_add_(-1, index.unsqueeze(-1), scale)
            if needs_hidden:
                grad_hidden.append(grad_logits @ weight)
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, rows)
        return torch.cat(grad_hidden) if needs_hidden else None, grad_weight, None, None
