"""Log-probabilities of given tokens, with the output head in the op or without.

Shapes: N tokens, D hidden, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.precision import accumulation_dtype, matmul_operands

# Rows of logits alive at a time. On the CPU a chunk of this size stays in cache, which pays for computing the
# logits twice: as fast as keeping them all (backends/cpu/README.md).
CHUNK_ROWS = 256


def token_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Return log p(target) of every token: log_softmax(hidden weight^T / temperature)[target].

    Logits live one chunk of rows at a time; the backward pass computes them again and uses d log p / d logits
    = (onehot(target) - p) / temperature. Differentiable once, in ``hidden_ND`` and ``weight_VD``.

    A negative target is ignored: its row never meets the head, its log p is 0 and it gives no gradient.

    Shapes: targets_N (N,) int64 below V; returns (N,).
    Dtype: the matmul in the inputs' (or autocast's) format, everything after it in float32.
    Raises: ShapeError if the inputs do not fit, ConfigError for a temperature that is not positive.
    Source: the chunked cross entropy of Wijmans et al. 2024, arXiv:2411.09009, section 4, without its
    filtering.
    """
    check_inputs(hidden_ND, weight_VD, targets_N, temperature)
    hidden, weight = matmul_operands(hidden_ND, weight_VD)
    return without_ignored(_TokenLogProbs.apply, hidden, weight, targets_N, temperature)


def gather_log_probs(logits_NV: Tensor, targets_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return log p(target) of every row: log_softmax(logits / temperature)[target].

    A negative target is ignored: its log p is 0 and it gives no gradient, whatever its logits. Of other rows,
    a target whose logit is -inf has log p -inf, and a row of nothing but -inf gives nan, as torch.log_softmax
    does.

    Shapes: targets_N (N,) int64 below V; returns (N,).
    Dtype: float32.
    Raises: ShapeError if the inputs do not fit, ConfigError for a temperature that is not positive.
    Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28, the softmax; its logarithm as torch.log_softmax.
    """
    check_logits("gather_log_probs", logits_NV, targets_N, temperature)
    ignored_N = targets_N < 0
    # Ignored rows are cleared before the softmax: a nan there would reach the gradients even if masked after.
    logits = logits_NV.to(accumulation_dtype(logits_NV)).masked_fill(ignored_N[:, None], 0.0) / temperature
    chosen = logits.log_softmax(-1).gather(-1, targets_N.clamp(min=0)[:, None]).squeeze(-1)
    return chosen.masked_fill(ignored_N, 0.0)


def without_ignored(
    compute: Callable[[Tensor, Tensor, Tensor, float], Tensor],
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    temperature: float,
) -> Tensor:
    """Return ``compute`` of the rows whose target is not negative, and 0 for the others."""
    counted_N = targets_N >= 0
    if bool(counted_N.all()):
        return compute(hidden_ND, weight_VD, targets_N, temperature)
    rows = counted_N.nonzero().squeeze(-1)
    log_probs = compute(hidden_ND[rows], weight_VD, targets_N[rows], temperature)
    return log_probs.new_zeros(targets_N.shape).index_copy(0, rows, log_probs)


def check_inputs(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float) -> None:
    """Raise unless shapes fit and ``temperature`` is positive."""
    if hidden_ND.shape[1:] != weight_VD.shape[1:] or targets_N.shape != hidden_ND.shape[:1]:
        raise ShapeError(
            f"token_log_probs: hidden {tuple(hidden_ND.shape)}, weight {tuple(weight_VD.shape)} and targets "
            f"{tuple(targets_N.shape)} must be (N, D), (V, D) and (N,)"
        )
    _check_temperature("token_log_probs", temperature)


def check_logits(op: str, logits_NV: Tensor, targets_N: Tensor, temperature: float = 1.0) -> None:
    """Raise unless there is one target a row and ``temperature`` is positive."""
    if logits_NV.ndim != 2 or targets_N.shape != logits_NV.shape[:1]:
        raise ShapeError(
            f"{op}: logits {tuple(logits_NV.shape)} and targets {tuple(targets_N.shape)} must be (N, V) "
            "and (N,)"
        )
    _check_temperature(op, temperature)


def _check_temperature(op: str, temperature: float) -> None:
    if temperature <= 0:
        raise ConfigError(f"{op}: temperature={temperature}; log-probabilities need a positive one")


class _TokenLogProbs(torch.autograd.Function):
    """Chunked forward, recomputing backward."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
        log_probs, log_norms = [], []
        for rows in _chunks(hidden.shape[0]):
            logits = _logits(hidden[rows], weight, temperature)
            log_norm = logits.logsumexp(-1)
            log_norms.append(log_norm)
            log_probs.append(logits.gather(-1, targets[rows].unsqueeze(-1)).squeeze(-1) - log_norm)
        ctx.temperature = temperature
        ctx.save_for_backward(hidden, weight, targets, torch.cat(log_norms))
        return torch.cat(log_probs)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grad_outputs
        hidden, weight, targets, log_norms = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Chunks add up in float32: their number must not decide how much is rounded away.
        grad_weight = torch.zeros_like(weight, dtype=accumulation_dtype(weight)) if needs_weight else None
        for rows in _chunks(hidden.shape[0]):
            probs = _logits(hidden[rows], weight, ctx.temperature).sub_(log_norms[rows, None]).exp_()
            scaled = (grad[rows] / ctx.temperature).unsqueeze(-1)
            grad_logits = probs.mul_(-scaled).scatter_add_(-1, targets[rows].unsqueeze(-1), scaled)
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.T).to(accumulation_dtype(hidden))
    return logits if temperature == 1.0 else logits / temperature


def _chunks(num_rows: int) -> list[slice]:
    # One empty chunk for no rows at all, so that the results can still be concatenated.
    return [slice(start, start + CHUNK_ROWS) for start in range(0, max(1, num_rows), CHUNK_ROWS)]
