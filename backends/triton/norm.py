"""Root mean square normalisation, forward and backward in one pass each. Shapes: R rows, D hidden.

Backward, with n = x * r, r = 1 / sqrt(mean(x^2) + eps) and g = dy * w:
dx = r * (g - n * mean(g * n)), dw = sum over rows of dy * n.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton.launch import NAMESPACE, flat_rows, launch, num_programs
from backends.triton.tuning import row_tile
from portable.kernel.reference.norm import check_residual, check_weight


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm`` of the reference."""
    check_weight("rms_norm", x_BTD, weight_D)
    return _norm(x_BTD, weight_D, eps, False)[0]


def rms_norm_one_plus_w(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute ``rms_norm_one_plus_w`` of the reference."""
    check_weight("rms_norm_one_plus_w", x_BTD, weight_D)
    return _norm(x_BTD, weight_D, eps, True)[0]


def add_rms_norm(
    x_BTD: Tensor, residual_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Compute ``add_rms_norm`` of the reference."""
    check_residual("add_rms_norm", x_BTD, residual_BTD)
    check_weight("add_rms_norm", x_BTD, weight_D)
    y, total, _ = _add_norm(x_BTD, residual_BTD, weight_D, eps)
    return y, total


@torch.library.custom_op(f"{NAMESPACE}::rms_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, eps: float, one_plus: bool) -> tuple[Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rstd = _run_forward(x, None, weight, y, None, eps, one_plus)
    return y, rstd


@_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float, one_plus: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(f"{NAMESPACE}::add_rms_norm", mutates_args=())
def _add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, residual.dtype)
    y, total = (torch.empty(x.shape, dtype=dtype, device=x.device) for _ in range(2))
    rstd = _run_forward(x, residual, weight, y, total, eps, False)
    return y, total, rstd


@_add_norm.register_fake
def _(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, residual.dtype)
    y, total = (x.new_empty(x.shape, dtype=dtype) for _ in range(2))
    return y, total, x.new_empty(x.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(f"{NAMESPACE}::rms_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor,
    grad_total: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    one_plus: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and, where it is needed, of the weight."""
    size = x.shape[-1]
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tile = row_tile(size, x.device, "row_backward")
    num_rows = rstd.numel()
    programs = num_programs(triton.cdiv(num_rows, tile.m), x.device)
    partial = torch.empty((programs if needs_weight else 0, size), dtype=torch.float32, device=x.device)
    launch(
        _backward_kernel,
        (programs,),
        x,
        flat_rows(grad),
        None if grad_total is None else flat_rows(grad_total),
        flat_rows(x),
        weight.contiguous(),
        rstd,
        grad_x,
        partial,
        num_rows,
        size,
        programs,
        ROWS=tile.m,
        WIDTH=tile.n,
        ONE_PLUS=one_plus,
        NEEDS_WEIGHT=needs_weight,
        **tile.options,
    )
    return grad_x, partial.sum(0).to(weight.dtype)


@_norm_backward.register_fake
def _(
    grad: Tensor,
    grad_total: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    one_plus: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


# Any: the contexts are torch's own
def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, one_plus = inputs
    ctx.save_for_backward(x, weight, output[-1])
    ctx.one_plus = one_plus
    ctx.mark_non_differentiable(output[-1])


def _norm_gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, rstd = ctx.saved_tensors
    grad_x, grad_weight = _norm_backward(grad, None, x, weight, rstd, ctx.one_plus, ctx.needs_input_grad[1])
    return grad_x, grad_weight if ctx.needs_input_grad[1] else None, None, None


def _keep_add_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, _ = inputs
    _, total, rstd = output
    ctx.save_for_backward(total, weight, rstd)
    ctx.dtypes = x.dtype, residual.dtype
    ctx.mark_non_differentiable(rstd)


def _add_norm_gradients(
    ctx: Any, grad: Tensor, grad_total: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    total, weight, rstd = ctx.saved_tensors
    needs_weight = ctx.needs_input_grad[2]
    grad_x, grad_weight = _norm_backward(grad, grad_total, total, weight, rstd, False, needs_weight)
    of_x, of_residual = (grad_x.to(dtype) for dtype in ctx.dtypes)
    return of_x, of_residual, grad_weight if needs_weight else None, None


_norm.register_autograd(_norm_gradients, setup_context=_keep_norm)
_add_norm.register_autograd(_add_norm_gradients, setup_context=_keep_add_norm)


def _run_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    y: Tensor,
    total: Tensor | None,
    eps: float,
    one_plus: bool,
) -> Tensor:
    """Fill ``y`` and ``total``; return 1 / rms of every row."""
    size = x.shape[-1]
    rstd = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    tile = row_tile(size, x.device)
    launch(
        _forward_kernel,
        (triton.cdiv(rstd.numel(), tile.m),),
        x,
        flat_rows(x),
        None if residual is None else flat_rows(residual),
        weight.contiguous(),
        y,
        total,
        rstd,
        rstd.numel(),
        size,
        eps,
        ROWS=tile.m,
        WIDTH=tile.n,
        ONE_PLUS=one_plus,
        **tile.options,
    )
    return rstd


@triton.jit
def _forward_kernel(
    x_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    y_ptr: tl.tensor,
    total_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    num_rows: int,
    size: int,
    eps: float,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ONE_PLUS: tl.constexpr,
) -> None:
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = (rows < num_rows)[:, None] & (columns < size)[None, :]
    at = rows[:, None] * size + columns[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        x += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        # What is normalised is the sum as the next layer will read it.
        total = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + at, total, mask=inside)
        x = total.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, axis=1) / size + eps)
    tl.store(rstd_ptr + rows, rstd, mask=rows < num_rows)
    weight = tl.load(weight_ptr + columns, mask=columns < size, other=0.0).to(tl.float32)[None, :]
    normed = x * rstd[:, None]
    if ONE_PLUS:  # noqa: SIM108 - decided when it is compiled
        y = normed * (1.0 + weight)
    else:
        y = normed.to(y_ptr.dtype.element_ty).to(tl.float32) * weight
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    grad_ptr: tl.tensor,
    grad_total_ptr: tl.tensor,
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    rstd_ptr: tl.tensor,
    grad_x_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    num_rows: int,
    size: int,
    num_programs: int,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ONE_PLUS: tl.constexpr,
    NEEDS_WEIGHT: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    columns = tl.arange(0, WIDTH)
    in_row = columns < size
    weight = tl.load(weight_ptr + columns, mask=in_row, other=0.0).to(tl.float32)
    if ONE_PLUS:
        weight += 1.0
    grad_weight = tl.zeros((WIDTH,), dtype=tl.float32)
    for step in range(program, tl.cdiv(num_rows, ROWS), num_programs):
        rows = tl.cast(step, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & in_row[None, :]
        at = rows[:, None] * size + columns[None, :]
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0.0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < num_rows, other=0.0)[:, None]
        normed = x.to(tl.float32) * rstd
        scaled = grad * weight[None, :]
        mean = tl.sum(scaled * normed, axis=1)[:, None] / size
        grad_x = rstd * (scaled - normed * mean)
        if grad_total_ptr is not None:
            grad_x += tl.load(grad_total_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)
        if NEEDS_WEIGHT:
            if not ONE_PLUS:
                normed = normed.to(x.dtype).to(tl.float32)
            grad_weight += tl.sum(grad * normed, axis=0)
    if NEEDS_WEIGHT:
        tl.store(partial_ptr + program.to(tl.int64) * size + columns, grad_weight, mask=in_row)
