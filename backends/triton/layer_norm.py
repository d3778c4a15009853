"""Layer normalisation, forward and backward in one pass each. Shapes: R rows, D hidden.

Backward, with n = (x - mean) * r, r = 1 / sqrt(var + eps) and g = dy * w:
dx = r * (g - mean(g) - n * mean(g * n)), dw = sum over rows of dy * n, db = sum over rows of dy.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton.launch import NAMESPACE, flat_rows, launch, num_programs
from backends.triton.tuning import row_tile
from portable.kernel.reference.norm import check_weight


def layer_norm(x_BTD: Tensor, weight_D: Tensor, bias_D: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Compute ``layer_norm`` of the reference."""
    check_weight("layer_norm", x_BTD, weight_D, bias_D)
    return _norm(x_BTD, weight_D, bias_D, eps)[0]


@torch.library.custom_op(f"{NAMESPACE}::layer_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, and the mean and 1 / standard deviation of every row."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean, rstd = (torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device) for _ in range(2))
    size = x.shape[-1]
    tile = row_tile(size, x.device)
    launch(
        _forward_kernel,
        (triton.cdiv(rstd.numel(), tile.m),),
        x,
        *(flat_rows(x), weight.contiguous(), None if bias is None else bias.contiguous()),
        *(y, mean, rstd, rstd.numel(), size, eps),
        ROWS=tile.m,
        WIDTH=tile.n,
        **tile.options,
    )
    return y, mean, rstd


@_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), mean, rstd


@torch.library.custom_op(f"{NAMESPACE}::layer_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient of x and, where needed, those of weight and bias in float32, (2, D)."""
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    size, num_rows = x.shape[-1], rstd.numel()
    tile = row_tile(size, x.device, "row_backward")
    programs = num_programs(triton.cdiv(num_rows, tile.m), x.device)
    partial = torch.empty((2, programs if needs_weight else 0, size), dtype=torch.float32, device=x.device)
    launch(
        _backward_kernel,
        (programs,),
        x,
        *(flat_rows(grad), flat_rows(x), weight.contiguous(), mean, rstd),
        *(grad_x, partial, num_rows, size, programs),
        ROWS=tile.m,
        WIDTH=tile.n,
        NEEDS_WEIGHT=needs_weight,
        **tile.options,
    )
    return grad_x, partial.sum(1)


@_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty((2, *weight.shape), dtype=torch.float32)


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight, *output[1:])
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    _, for_weight, for_bias, _ = ctx.needs_input_grad
    grad_x, grads = _norm_backward(grad, *ctx.saved_tensors, for_weight or for_bias)
    grad_weight = grads[0].to(ctx.saved_tensors[1].dtype) if for_weight else None
    return grad_x, grad_weight, grads[1].to(ctx.bias_dtype) if for_bias else None, None


_norm.register_autograd(_gradients, setup_context=_keep)


@triton.jit
def _forward_kernel(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    y_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    num_rows: int,
    size: int,
    eps: float,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    in_row = columns < size
    inside = (rows < num_rows)[:, None] & in_row[None, :]
    at = rows[:, None] * size + columns[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / size
    centred = tl.where(in_row[None, :], x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, axis=1) / size + eps)
    tl.store(mean_ptr + rows, mean, mask=rows < num_rows)
    tl.store(rstd_ptr + rows, rstd, mask=rows < num_rows)
    y = (
        centred
        * rstd[:, None]
        * tl.load(weight_ptr + columns, mask=in_row, other=0.0).to(tl.float32)[None, :]
    )
    if bias_ptr is not None:
        y += tl.load(bias_ptr + columns, mask=in_row, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    grad_ptr: tl.tensor,
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    grad_x_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    num_rows: int,
    size: int,
    num_programs: int,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    NEEDS_WEIGHT: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    columns = tl.arange(0, WIDTH)
    in_row = columns < size
    weight = tl.load(weight_ptr + columns, mask=in_row, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((WIDTH,), dtype=tl.float32)
    grad_bias = tl.zeros((WIDTH,), dtype=tl.float32)
    for step in range(program, tl.cdiv(num_rows, ROWS), num_programs):
        rows = tl.cast(step, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & in_row[None, :]
        at = rows[:, None] * size + columns[None, :]
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + rows, mask=rows < num_rows, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + rows, mask=rows < num_rows, other=0.0)[:, None]
        normed = (x - mean) * rstd
        scaled = grad * weight[None, :]
        along = tl.sum(scaled * normed, axis=1)[:, None] / size
        grad_x = rstd * (scaled - tl.sum(scaled, axis=1)[:, None] / size - normed * along)
        tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)
        if NEEDS_WEIGHT:
            grad_weight += tl.sum(grad * normed, axis=0)
            grad_bias += tl.sum(grad, axis=0)
    if NEEDS_WEIGHT:
        at = program.to(tl.int64) * size + columns
        tl.store(partial_ptr + at, grad_weight, mask=in_row)
        tl.store(partial_ptr + tl.num_programs(0).to(tl.int64) * size + at, grad_bias, mask=in_row)
