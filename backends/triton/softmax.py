"""The two passes over logits that every loss of a vocabulary needs: statistics of rows, and the gradient.

Shapes: N rows, V columns, of a vocabulary that may be larger: column c is the number ``vocab_start + c``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import column_tile


@torch.library.custom_op(f"{NAMESPACE}::row_statistics", mutates_args=())
def row_statistics(
    logits_NV: Tensor, targets_N: Tensor, vocab_start: int, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return max z, sum exp(z - max z) and the target's z of every row, z being logits / temperature.

    The last is 0 where the target is not among the columns. Rows whose target is negative are not read;
    theirs are 0, 1 and 0, so that the loss comes to 0.

    Shapes: each (N,) float32.
    """
    num_rows, size = logits_NV.shape
    peaks, sums, chosen = (
        torch.empty(num_rows, dtype=torch.float32, device=logits_NV.device) for _ in range(3)
    )
    tile = column_tile(size, logits_NV.device)
    launch(
        _statistics_kernel,
        (num_rows,),
        logits_NV,
        logits_NV.contiguous(),
        targets_N.contiguous(),
        peaks,
        sums,
        chosen,
        size,
        vocab_start,
        temperature,
        BLOCK=tile.n,
        **tile.options,
    )
    return peaks, sums, chosen


@row_statistics.register_fake
def _(
    logits_NV: Tensor, targets_N: Tensor, vocab_start: int, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (logits_NV.new_empty(logits_NV.shape[0], dtype=torch.float32) for _ in range(3))
    return first, second, third


@torch.library.custom_op(f"{NAMESPACE}::softmax_gradient", mutates_args=())
def softmax_gradient(
    grad_N: Tensor,
    logits_NV: Tensor,
    targets_N: Tensor,
    peaks_N: Tensor,
    sums_N: Tensor,
    vocab_start: int,
    temperature: float,
    z_loss: float,
) -> Tensor:
    """Return d loss / d logits: grad (softmax (1 + 2 z_loss lse) - onehot(target)) / temperature.

    Rows whose target is negative are zeros. ``peaks_N`` and ``sums_N`` are those of the whole vocabulary:
    kept apart, since their log-sum-exp would round away what is small beside a large logit.

    Shapes: returns (N, V). Dtype: that of the logits.
    """
    num_rows, size = logits_NV.shape
    out = torch.empty(logits_NV.shape, dtype=logits_NV.dtype, device=logits_NV.device)
    tile = column_tile(size, logits_NV.device)
    launch(
        _gradient_kernel,
        (num_rows, triton.cdiv(size, tile.n)),
        logits_NV,
        grad_N.contiguous(),
        logits_NV.contiguous(),
        targets_N.contiguous(),
        peaks_N,
        sums_N,
        out,
        size,
        vocab_start,
        temperature,
        z_loss,
        BLOCK=tile.n,
        **tile.options,
    )
    return out


@softmax_gradient.register_fake
def _(
    grad_N: Tensor,
    logits_NV: Tensor,
    targets_N: Tensor,
    peaks_N: Tensor,
    sums_N: Tensor,
    vocab_start: int,
    temperature: float,
    z_loss: float,
) -> Tensor:
    return logits_NV.new_empty(logits_NV.shape)


@triton.jit
def _statistics_kernel(
    logits_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    peaks_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    chosen_ptr: tl.tensor,
    size: int,
    vocab_start: int,
    temperature: float,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    # Sizes of loops are known before a row is: an ignored row reads no column.
    end = tl.where(target < 0, 0, size)
    ignored_sum = tl.where(target < 0, 1.0, 0.0)
    peak = tl.where(target < 0, 0.0, float("-inf"))
    total = ignored_sum
    for start in range(0, end, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        z = tl.load(logits_ptr + row * size + columns, mask=columns < size, other=float("-inf"))
        z = z.to(tl.float32) / temperature
        higher = tl.maximum(peak, tl.max(z, axis=0))
        # While all is -inf, exp(-inf - 0) = 0 where exp(-inf + inf) would be nan.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(peak - base) + tl.sum(tl.exp(z - base), axis=0)
        peak = higher
    column = target - vocab_start
    inside = (target >= 0) & (column >= 0) & (column < size)
    chosen = tl.load(logits_ptr + row * size + column, mask=inside, other=0.0).to(tl.float32) / temperature
    tl.store(peaks_ptr + row, peak)
    tl.store(sums_ptr + row, total)
    tl.store(chosen_ptr + row, chosen)


@triton.jit
def _gradient_kernel(
    grad_ptr: tl.tensor,
    logits_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    peaks_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    out_ptr: tl.tensor,
    size: int,
    vocab_start: int,
    temperature: float,
    z_loss: float,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    target = tl.load(targets_ptr + row)
    counted = target >= 0
    readable = columns < tl.where(counted, size, 0)
    peak = tl.load(peaks_ptr + row)
    total = tl.load(sums_ptr + row)
    grad = tl.load(grad_ptr + row).to(tl.float32) / temperature
    z = tl.load(logits_ptr + row * size + columns, mask=readable, other=0.0).to(tl.float32)
    slope = tl.exp(z / temperature - peak) / total * (1.0 + 2.0 * z_loss * (peak + tl.log(total)))
    slope = tl.where(columns == target - vocab_start, slope - 1.0, slope) * grad
    slope = tl.where(counted, slope, 0.0)
    tl.store(out_ptr + row * size + columns, slope.to(out_ptr.dtype.element_ty), mask=columns < size)
