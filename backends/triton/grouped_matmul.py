"""Products of groups of rows with a matrix each: the experts' layers.

Shapes: M rows in the order of their experts, E experts, D in, F out. In the kernels a tile is BM x BN with
steps of BK along the sum.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.triton.launch import NAMESPACE, launch
from backends.triton.tuning import TileConfig, tile
from portable.kernel.reference.moe import group_sizes
from portable.kernel.reference.precision import linear_dtype, matmul_operands


def grouped_matmul(x_MD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Compute ``grouped_matmul`` of the reference: one launch for all experts.

    The counts are read on the host, to check them and to size the grid.
    """
    largest = max(group_sizes(x_MD, weight_EDF, counts_E), default=0)
    x, weight = matmul_operands(x_MD, weight_EDF)
    bounds = torch.cat((counts_E.new_zeros(1), counts_E.cumsum(0))).to(x.device)
    return _multiply(x, weight, bounds, largest).to(linear_dtype(x_MD))


@torch.library.custom_op(f"{NAMESPACE}::grouped_matmul", mutates_args=())
def _multiply(x: Tensor, weight: Tensor, bounds: Tensor, largest: int) -> Tensor:
    """Multiply rows bounds[e] .. bounds[e + 1] - 1 by weight[e]; no group has more than ``largest``."""
    num_experts, num_in, num_out = weight.shape
    out = torch.empty((x.shape[0], num_out), dtype=x.dtype, device=x.device)
    config = _tile(x)
    launch(
        _rows_kernel,
        (triton.cdiv(largest, config.m), triton.cdiv(num_out, config.n), num_experts),
        x,
        *(x.contiguous(), weight, out, bounds, num_in, num_out, *weight.stride()),
        **_sizes(config),
    )
    return out


@_multiply.register_fake
def _(x: Tensor, weight: Tensor, bounds: Tensor, largest: int) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


@torch.library.custom_op(f"{NAMESPACE}::grouped_matmul_weight", mutates_args=())
def _weight_gradient(x: Tensor, grad: Tensor, bounds: Tensor) -> Tensor:
    """Return x[group]^T grad[group] for every group, (E, D, F)."""
    num_experts, num_in, num_out = bounds.numel() - 1, x.shape[1], grad.shape[1]
    out = torch.empty((num_experts, num_in, num_out), dtype=x.dtype, device=x.device)
    config = _tile(x)
    launch(
        _weights_kernel,
        (triton.cdiv(num_in, config.m), triton.cdiv(num_out, config.n), num_experts),
        x,
        *(x.contiguous(), grad.contiguous(), out, bounds, num_in, num_out),
        **_sizes(config),
    )
    return out


@_weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, bounds: Tensor) -> Tensor:
    return x.new_empty(bounds.shape[0] - 1, x.shape[1], grad.shape[1])


# Any: the context is torch's own
def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bounds, ctx.largest = inputs
    ctx.save_for_backward(x, weight, bounds)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bounds = ctx.saved_tensors
    needs_x, needs_weight, *_ = ctx.needs_input_grad
    grad_x = _multiply(grad, weight.mT, bounds, ctx.largest) if needs_x else None
    return grad_x, _weight_gradient(x, grad, bounds) if needs_weight else None, None, None


_multiply.register_autograd(_gradients, setup_context=_keep)


def _tile(x: Tensor) -> TileConfig:
    return tile("grouped_matmul", x.device, "32_bits" if x.element_size() > 2 else "")


def _sizes(config: TileConfig) -> dict[str, int]:
    return {"BM": config.m, "BN": config.n, "BK": config.k, **config.options}


@triton.jit
def _rows_kernel(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    out_ptr: tl.tensor,
    bounds_ptr: tl.tensor,
    num_in: int,
    num_out: int,
    weight_expert: tl.tensor,
    weight_in: tl.tensor,
    weight_out: tl.tensor,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
) -> None:
    """BM rows of a group, BN columns."""
    expert = tl.program_id(2).to(tl.int64)
    first = tl.load(bounds_ptr + expert)
    last = tl.load(bounds_ptr + expert + 1)
    rows = first + tl.program_id(0) * BM + tl.arange(0, BM)
    if first + tl.program_id(0) * BM >= last:
        return
    columns = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    in_rows, in_columns = (rows < last)[:, None], (columns < num_out)[None, :]
    sums = tl.zeros((BM, BN), tl.float32)
    for start in range(0, num_in, BK):
        dims = start + tl.arange(0, BK)
        in_dims = dims < num_in
        x = tl.load(
            x_ptr + rows[:, None] * num_in + dims[None, :], mask=in_rows & in_dims[None, :], other=0.0
        )
        at = expert * weight_expert + dims[:, None] * weight_in + columns[None, :] * weight_out
        weight = tl.load(weight_ptr + at, mask=in_dims[:, None] & in_columns, other=0.0)
        sums += tl.dot(x, weight, input_precision="ieee")
    out_at = out_ptr + rows[:, None] * num_out + columns[None, :]
    tl.store(out_at, sums.to(out_ptr.dtype.element_ty), mask=in_rows & in_columns)


@triton.jit
def _weights_kernel(
    x_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    out_ptr: tl.tensor,
    bounds_ptr: tl.tensor,
    num_in: int,
    num_out: int,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
) -> None:
    """BM x BN numbers of a matrix's gradient, summed over the rows of its group; zeros where it has none."""
    expert = tl.program_id(2).to(tl.int64)
    first = tl.load(bounds_ptr + expert)
    last = tl.load(bounds_ptr + expert + 1)
    dims = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    columns = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    in_dims, in_columns = dims < num_in, columns < num_out
    sums = tl.zeros((BM, BN), tl.float32)
    for start in range(first, last, BK):
        rows = start + tl.arange(0, BK)
        in_rows = rows < last
        x_at = x_ptr + rows[None, :] * num_in + dims[:, None]
        x = tl.load(x_at, mask=in_dims[:, None] & in_rows[None, :], other=0.0)
        grad_at = grad_ptr + rows[:, None] * num_out + columns[None, :]
        grad = tl.load(grad_at, mask=in_rows[:, None] & in_columns[None, :], other=0.0)
        sums += tl.dot(x, grad, input_precision="ieee")
    out_at = out_ptr + (expert * num_in + dims[:, None]) * num_out + columns[None, :]
    tl.store(out_at, sums.to(out_ptr.dtype.element_ty), mask=in_dims[:, None] & in_columns[None, :])
