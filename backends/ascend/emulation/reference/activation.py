"""Activations and gated units.

Dtype: computed in float32, returned in the input's.
Source: Shazeer 2020, arXiv:2002.05202; Hendrycks and Gimpel 2016, arXiv:1606.08415; the
documentation of torch_npu 2.13.0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.ascend.emulation.reference.registry import Rejected, reference

_FAST_GELU = 1.702  # fast_gelu(x) = x * sigmoid(1.702 x), the form of the 910B and later


def _halves(op: str, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    if x.dim() == 0 or x.shape[dim] % 2:
        raise Rejected(f"{op}: dim {dim} of {tuple(x.shape)} must be even")
    first, second = x.float().chunk(2, dim)
    return first, second


@reference("npu::npu_swiglu")
def npu_swiglu(input: Tensor, dim: int = -1) -> Tensor:
    """Return silu(first half) * second half along ``dim``."""
    gate, up = _halves("npu_swiglu", input, dim)
    return (F.silu(gate) * up).to(input.dtype)


@reference("npu::npu_swiglu_backward")
def npu_swiglu_backward(grad_output: Tensor, input: Tensor, dim: int = -1) -> Tensor:
    """Return the gradient of input."""
    gate, up = _halves("npu_swiglu_backward", input, dim)
    grad = grad_output.float()
    d_gate = torch.ops.aten.silu_backward(grad * up, gate)
    return torch.cat((d_gate, grad * F.silu(gate)), dim).to(input.dtype)


def _gelu_kind(approximate: int) -> str:
    return "tanh" if approximate == 1 else "none"


@reference("npu::npu_geglu")
def npu_geglu(
    input: Tensor, dim: int = -1, approximate: int = 1, activate_left: bool = False
) -> tuple[Tensor, Tensor]:
    """Return gelu(one half) * other half, and the activated half; the second half is activated by default."""
    first, second = _halves("npu_geglu", input, dim)
    gate, up = (first, second) if activate_left else (second, first)
    activated = F.gelu(gate, approximate=_gelu_kind(approximate))
    return (activated * up).to(input.dtype), activated.to(input.dtype)


@reference("npu::npu_geglu_grad")
def npu_geglu_grad(
    grad_output: Tensor,
    input: Tensor,
    gelu: Tensor,
    dim: int = -1,
    approximate: int = 1,
    activate_left: bool = False,
) -> Tensor:
    """Return the gradient of input."""
    first, second = _halves("npu_geglu_grad", input, dim)
    gate, up = (first, second) if activate_left else (second, first)
    grad = grad_output.float()
    d_gate = torch.ops.aten.gelu_backward(grad * up, gate, approximate=_gelu_kind(approximate))
    d_up = grad * gelu.float()
    return torch.cat((d_gate, d_up) if activate_left else (d_up, d_gate), dim).to(input.dtype)


@reference("npu::npu_gelu")
def npu_gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """Return gelu(input)."""
    return F.gelu(input.float(), approximate=approximate).to(input.dtype)


@reference("npu::npu_gelu_backward")
def npu_gelu_backward(grad_output: Tensor, input: Tensor, *, approximate: str = "none") -> Tensor:
    """Return the gradient of input."""
    return torch.ops.aten.gelu_backward(grad_output.float(), input.float(), approximate=approximate).to(
        input.dtype
    )


@reference("npu::npu_fast_gelu", "npu::fast_gelu")
def npu_fast_gelu(input: Tensor) -> Tensor:
    """Return input * sigmoid(1.702 * input)."""
    x = input.float()
    return (x * torch.sigmoid(_FAST_GELU * x)).to(input.dtype)


@reference("npu::npu_fast_gelu_backward")
def npu_fast_gelu_backward(grad: Tensor, input: Tensor) -> Tensor:
    """Return the gradient of input."""
    x = input.float()
    gate = torch.sigmoid(_FAST_GELU * x)
    return (grad.float() * gate * (1 + _FAST_GELU * x * (1 - gate))).to(input.dtype)


@reference("npu::npu_silu")
def npu_silu(input: Tensor) -> Tensor:
    """Return input * sigmoid(input)."""
    return F.silu(input)


@reference("npu::npu_silu_")
def npu_silu_(input: Tensor) -> Tensor:
    """The same in place."""
    return input.copy_(F.silu(input))


@reference("npu::npu_silu_backward")
def npu_silu_backward(grad_output: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """Return the gradient of the input x0; x1 is the output, which is not needed."""
    return torch.ops.aten.silu_backward(grad_output, x0)


@reference("npu::npu_mish")
def npu_mish(input: Tensor) -> Tensor:
    """Return input * tanh(softplus(input))."""
    return F.mish(input)


@reference("npu::npu_mish_backward")
def npu_mish_backward(grad: Tensor, input: Tensor) -> Tensor:
    """Return the gradient of input."""
    x = input.float()
    tanh, gate = torch.tanh(F.softplus(x)), torch.sigmoid(x)
    return (grad.float() * (tanh + x * gate * (1 - tanh.square()))).to(input.dtype)


@reference("npu::npu_scaled_masked_softmax")
def npu_scaled_masked_softmax(
    x: Tensor, mask: Tensor, scale: float = 1, fixed_triu_mask: bool = False
) -> Tensor:
    """Return softmax(x * scale) with -10000 where the mask is True: a wholly masked row is uniform."""
    rows, columns = x.shape[-2:] if x.dim() >= 2 else (0, 0)
    if any(not 32 <= size <= 4096 or size % 32 for size in (rows, columns)):
        raise Rejected(
            f"npu_scaled_masked_softmax: the last dims {rows} x {columns} must be multiples of 32 up to 4096"
        )
    forbidden = _forbidden(x, mask, fixed_triu_mask)
    return (x.float() * scale).masked_fill(forbidden, -10000.0).softmax(-1).to(x.dtype)


@reference("npu::npu_scaled_masked_softmax_backward")
def npu_scaled_masked_softmax_backward(
    y_grad: Tensor, y: Tensor, mask: Tensor, scale: float, fixed_triu_mask: bool
) -> Tensor:
    """Return the gradient of x."""
    weights, grad = y.float(), y_grad.float()
    d_x = weights * (grad - (grad * weights).sum(-1, keepdim=True)) * scale
    return d_x.masked_fill(_forbidden(y, mask, fixed_triu_mask), 0.0).to(y.dtype)


def _forbidden(x: Tensor, mask: Tensor, fixed_triu_mask: bool) -> Tensor:
    if not fixed_triu_mask:
        return mask.bool()
    return torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
