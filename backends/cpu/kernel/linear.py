"""Linear layers by oneDNN, whose float32 products are faster than those of torch's own choice on this
processor, MKL.

The weight's gradient stays with torch: oneDNN would copy both of its operands, which lie across. Letters: I
in, O out, R rows.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import mm_flop, register_flop_formula

from backends.cpu.kernel.library import wants_gradient
from portable.kernel.reference import linear as reference
from portable.kernel.reference.precision import linear_dtype

_product = torch.ops.mkldnn._linear_pointwise.default


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _flops(
    x_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any
) -> int:  # Any: what else it takes
    rows, (num_out, num_in) = x_shape.numel() // x_shape[-1], weight_shape
    return mm_flop((rows, num_in), (num_in, num_out))


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Compute ``linear`` of the reference, to which all that is not float32 is left."""
    if not _is_float32(x, weight_OI) or x.numel() == 0:
        return reference.linear(x, weight_OI, bias_O)
    reference.check_linear(x, weight_OI, bias_O)
    rows_RI = x.reshape(-1, x.shape[-1])
    if wants_gradient(x, weight_OI):
        out_RO: Tensor = _Linear.apply(rows_RI, weight_OI)
    else:
        out_RO = _multiply(rows_RI, weight_OI)
    out = out_RO.view(*x.shape[:-1], -1)
    return out if bias_O is None else out + bias_O.to(out.dtype)


def _is_float32(x: Tensor, weight: Tensor) -> bool:
    return x.dtype == weight.dtype == linear_dtype(x) == torch.float32 and type(weight) in _PLAIN


_PLAIN = (Tensor, torch.nn.Parameter)


def _multiply(x_RI: Tensor, weight_OI: Tensor) -> Tensor:
    return _product(x_RI, weight_OI, None, "none", [], "")


class _Linear(torch.autograd.Function):
    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_RI, weight_OI)
        return _multiply(x_RI, weight_OI)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_RI, weight_OI = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        (grad_RO,) = grads
        grad_x = _multiply(grad_RO, weight_OI.t()) if needs_x else None
        return grad_x, grad_RO.t() @ x_RI if needs_weight else None
