"""Operators of torch, and their gradients, that torch_npu computes by operators of its own.

They have no CPU kernel under these names. Formulas are those of torch's derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.ascend.emulation.reference.registry import reference


@reference("aten::matmul_backward")
def matmul_backward(
    grad: Tensor | None, self: Tensor, other: Tensor, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``torch.matmul``, with vectors and broadcast batch dims as it has them."""
    if grad is None:
        return None, None
    left, right, gradient = _as_matrices(self, other, grad)
    if right.dim() == 2:  # one product over all rows, as torch computes it: the same sums in the same order
        left, gradient = left.flatten(0, -2), gradient.flatten(0, -2)
    d_self = (gradient @ right.mT.conj()).sum_to_size(left.shape).view_as(self) if mask[0] else None
    d_other = (left.mT.conj() @ gradient).sum_to_size(right.shape).view_as(other) if mask[1] else None
    return d_self, d_other


@reference("npu::matmul_double_backward")
def matmul_double_backward(
    grad_self: Tensor | None,
    grad_other: Tensor | None,
    grad_out: Tensor,
    input: Tensor,
    other: Tensor,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of matmul_backward's inputs (grad, self, other)."""
    d_grad = d_self = d_other = None
    if mask[0]:
        parts = [] if grad_self is None else [grad_self @ other]
        parts += [] if grad_other is None else [input @ grad_other]
        d_grad = sum(parts[1:], parts[0]) if parts else None
    if mask[1] and grad_other is not None:
        d_self = matmul_backward(grad_out, input, grad_other, [True, False])[0]
    if mask[2] and grad_self is not None:
        d_other = matmul_backward(grad_out, grad_self, other, [False, True])[1]
    return d_grad, d_self, d_other


def _as_matrices(left: Tensor, right: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give vectors and their product the dim that matmul gave them."""
    if right.dim() == 1:
        right, grad = right.unsqueeze(1), grad.unsqueeze(-1)
    if left.dim() == 1:
        left, grad = left.unsqueeze(0), grad.unsqueeze(-2)
    return left, right, grad


@reference("npu::npu_gather_backward")
def npu_gather_backward(
    grad: Tensor, self_size: list[int], dim: int, index: Tensor, sparse_grad: bool
) -> Tensor:
    """Add each gradient where its value was taken from."""
    if grad.dim() == 0 and not self_size:
        return grad.clone()
    return grad.new_zeros(self_size).scatter_add(dim, index, grad)


@reference("npu::npu_max_backward", "npu::npu_min_backward")
def npu_max_backward(grad: Tensor, dim: int, indices: Tensor, sizes: list[int], keepdim: bool) -> Tensor:
    """Give the gradient to the element that was taken."""
    if not sizes:
        return grad.clone()
    if not keepdim:
        grad, indices = grad.unsqueeze(dim), indices.unsqueeze(dim)
    return grad.new_zeros(sizes).scatter(dim, indices.long(), grad)


@reference("npu::npu_max.dim")
def npu_max(input: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Return maxima and their indices (int32)."""
    values, indices = input.max(dim, keepdim)
    return values, indices.int()


@reference("npu::npu_min.dim")
def npu_min(input: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Return minima and their indices (int32)."""
    values, indices = input.min(dim, keepdim)
    return values, indices.int()


@reference("npu::repeat_interleave_backward_int")
def repeat_interleave_backward_int(
    grad: Tensor, input: Tensor, repeats: int, dim: int | None = None
) -> Tensor:
    """Add the gradients of the copies of each element."""
    if dim is None:
        return grad.view(-1, repeats).sum(1).view_as(input) if repeats else torch.zeros_like(input)
    if repeats == 0:
        return torch.zeros_like(input)
    return grad.unflatten(dim, (input.shape[dim], repeats)).sum(dim % input.dim() + 1)


@reference("npu::repeat_interleave_backward_tensor")
def repeat_interleave_backward_tensor(
    grad: Tensor, input: Tensor, repeats: Tensor, dim: int | None = None
) -> Tensor:
    """The same for a number of copies of each element."""
    axis = 0 if dim is None else dim
    flat = input.flatten() if dim is None else input
    size = flat.shape[axis] if flat.dim() else 1
    counts = repeats.expand(size) if repeats.numel() == 1 else repeats
    source = torch.arange(size, device=grad.device).repeat_interleave(counts.to(grad.device))
    target = flat.reshape(1) if flat.dim() == 0 else flat
    return torch.zeros_like(target).index_add(axis, source, grad).view_as(input)


@reference("npu::npu_renorm_backward")
def npu_renorm_backward(grad: Tensor, input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Gradient of ``torch.renorm``: slices that were scaled also lose what would change their norm."""
    axis = dim % input.dim()
    others = [other for other in range(input.dim()) if other != axis]
    norm = torch.linalg.vector_norm(input, p, others, keepdim=True)
    scaled = norm > maxnorm
    safe = norm + 1e-7
    scale = torch.where(scaled, maxnorm / safe, torch.ones_like(norm))
    product = (grad * input).sum(others, keepdim=True)
    d_norm = torch.where(scaled, -product * maxnorm / safe.square(), torch.zeros_like(norm))
    return grad * scale + d_norm * _norm_gradient(input, norm, p)


def _norm_gradient(x: Tensor, norm: Tensor, p: float) -> Tensor:
    if p == 0:
        return torch.zeros_like(x)
    if p == 1:
        return x.sgn()
    if p == float("inf"):
        largest = x.abs() == norm
        dims = [dim for dim in range(x.dim()) if norm.shape[dim] == 1]
        return x.sgn() * largest / largest.sum(dims, keepdim=True)
    divisor = norm.masked_fill(norm == 0, 1.0)
    return x * x.abs().pow(p - 2) / divisor.pow(p - 1) if p != 2 else x / divisor


@reference("npu::fft_r2c_backward")
def fft_r2c_backward(
    grad: Tensor, dim: list[int], normalization: int, onesided: bool, last_dim_size: int
) -> Tensor:
    """Gradient of a real input from that of its spectrum."""
    if onesided:
        last = dim[-1]
        missing = last_dim_size - grad.shape[last]
        zeros = grad.new_zeros(
            [missing if axis == last % grad.dim() else size for axis, size in enumerate(grad.shape)]
        )
        grad = torch.cat((grad, zeros), last)
    return torch.ops.aten._fft_c2c(grad, dim, normalization, False).real.contiguous()


@reference("npu::fft_c2r_backward")
def fft_c2r_backward(grad: Tensor, dim: list[int], normalization: int) -> Tensor:
    """Gradient of half a spectrum from that of its real signal; inner frequencies stand for two."""
    half = torch.ops.aten._fft_r2c(grad, dim, normalization, True)
    last = dim[-1]
    doubled = grad.shape[last] - half.shape[last]
    if doubled > 0:
        half.narrow(last, 1, doubled).mul_(2)
    return half


@reference("npu::npu_broadcast")
def npu_broadcast(input: Tensor, size: list[int]) -> Tensor:
    """Return a tensor of ``size`` whose repeated dims are real copies."""
    return input.expand(size).contiguous()


@reference("npu::one_")
def one_(input: Tensor) -> Tensor:
    """Fill with ones."""
    return input.fill_(1)
