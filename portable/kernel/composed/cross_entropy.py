"""Losses of logits in chunks of rows. Shapes: N tokens, V vocabulary (this rank's columns of it).

Beside the logits and their gradient, both in the format of the logits, no more than one chunk is ever held in
float32, and the softmax is computed again for the backward pass instead of being kept.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from portable.kernel.reference.cross_entropy import Reduce, own_columns, own_logit
from portable.kernel.reference.log_prob import check_logits
from portable.kernel.reference.precision import accumulation_dtype

# Logits of a chunk: 16 MiB in float32. From 2^17 to 2^22 the CPU's time hardly changes, and elsewhere fewer
# chunks are fewer launches.
CHUNK_VALUES = 2**22


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, *, z_loss: float = 0.0) -> Tensor:
    """Compute ``cross_entropy`` of the reference."""
    check_logits("cross_entropy", logits_NV, targets_N)
    return _Chunked.apply(logits_NV, targets_N, 0, _alone, 1.0, z_loss)


def gather_log_probs(logits_NV: Tensor, targets_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute ``gather_log_probs`` of the reference."""
    check_logits("gather_log_probs", logits_NV, targets_N, temperature)
    return 0.0 - _Chunked.apply(logits_NV, targets_N, 0, _alone, temperature, 0.0)


def vocab_parallel_cross_entropy(
    logits_NV: Tensor, targets_N: Tensor, *, vocab_start: int, reduce: Reduce, z_loss: float = 0.0
) -> Tensor:
    """Compute ``vocab_parallel_cross_entropy`` of the reference."""
    check_logits("vocab_parallel_cross_entropy", logits_NV, targets_N)
    return _Chunked.apply(logits_NV, targets_N, vocab_start, reduce, 1.0, z_loss)


class _Chunked(torch.autograd.Function):
    """lse - logits[target] / temperature + z_loss lse^2, over all ranks, in two reductions.

    lse = log(sum(exp((logits - max) / temperature))) + max / temperature; with a z_loss the temperature is 1.
    The two terms of it are kept apart: their sum would lose what the first is small by.
    """

    # Any: the context is torch's own
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        vocab_start: int,
        reduce: Reduce,
        temperature: float,
        z_loss: float,
    ) -> Tensor:
        dtype = accumulation_dtype(logits)
        num_columns = logits.shape[1]
        # A rank may own no column at all; -inf is what the others' maximum leaves unchanged.
        own_max = logits.amax(-1) if num_columns else logits.new_full(targets.shape, -torch.inf)
        row_max = reduce(own_max.to(dtype), "max")
        own_sum = torch.empty_like(row_max)
        room = _room(logits, dtype)
        for rows in _chunks(logits):
            chunk = _exp(logits[rows], row_max[rows], temperature, room)
            torch.sum(chunk, -1, out=own_sum[rows])
        columns, inside = own_columns(targets, vocab_start, num_columns)
        own_target = own_logit(logits, columns, inside).to(dtype)
        total, chosen = reduce(torch.stack((own_sum, own_target)), "sum").unbind()
        log_sums = total.log()
        losses = log_sums - (chosen - row_max) / temperature
        if z_loss:
            losses += z_loss * (log_sums + row_max).square()
        ctx.temperature, ctx.z_loss = temperature, z_loss
        ctx.save_for_backward(logits, targets, columns, inside, row_max, total)
        return losses.masked_fill_(targets < 0, 0.0)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None, None, None]:
        logits, targets, columns, inside, row_max, total = ctx.saved_tensors
        grad = grad_outputs[0] / ctx.temperature
        ignored = (targets < 0)[:, None]
        of_target = (-grad).masked_fill_(~inside, 0.0)[:, None]
        if ctx.z_loss:
            grad = grad * (1 + 2 * ctx.z_loss * (total.log() + row_max))
        of_exp = (grad / total)[:, None]
        grad_logits = torch.empty_like(logits)
        # In float32 a chunk is made where the gradient lies, in 16 bits it is rounded into it.
        room = None if logits.dtype == total.dtype else _room(logits, total.dtype)
        for rows in _chunks(logits):
            place = grad_logits[rows] if room is None else room
            chunk = _exp(logits[rows], row_max[rows], ctx.temperature, place).mul_(of_exp[rows])
            chunk.scatter_add_(-1, columns[rows, None], of_target[rows]).masked_fill_(ignored[rows], 0.0)
            if room is not None:
                grad_logits[rows] = chunk
        return grad_logits, None, None, None, None, None


def _alone(x: Tensor, op: Literal["max", "sum"], /) -> Tensor:
    """Reduce over one rank, which has the whole vocabulary."""
    return x


def _exp(logits: Tensor, shift: Tensor, temperature: float, room: Tensor) -> Tensor:
    """Return exp((logits - shift) / temperature) of a chunk, made in ``room``."""
    x = room[: len(logits)]
    if x.dtype == logits.dtype:
        torch.sub(logits, shift[:, None], out=x)
    else:  # mixed formats would cost a copy
        x.copy_(logits).sub_(shift[:, None])
    return (x if temperature == 1.0 else x.div_(temperature)).exp_()


def _room(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return room for the largest chunk."""
    largest = next(_chunks(logits), slice(0, 0))
    return logits.new_empty(min(len(logits), largest.stop), logits.shape[1], dtype=dtype)


def _chunks(logits: Tensor) -> Iterator[slice]:
    num_rows, num_columns = logits.shape
    step = max(1, CHUNK_VALUES // max(1, num_columns))
    return (slice(start, start + step) for start in range(0, num_rows, step))
