"""Shapes, number formats and memory formats of tensors, and filtering of logits.

Source: torch_npu 2.13.0's schemas and documentation.
"""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor

from backends.ascend.emulation.reference.registry import NotEmulated, Rejected, cover_only, reference

# Of ACL: the formats in which elements lie in the order of the dims.
_BASE_FORMATS = {
    -1: "UNDEFINED",
    0: "NCHW",
    1: "NHWC",
    2: "ND",
    27: "NDHWC",
    30: "NCDHW",
    35: "NC",
    47: "NCL",
}


@reference("npu::npu_confusion_transpose")
def npu_confusion_transpose(
    input: Tensor, perm: list[int], shape: list[int], transpose_first: bool
) -> Tensor:
    """Permute and reshape, in the one or the other order."""
    if transpose_first:
        return input.permute(perm).reshape(shape).contiguous()
    return input.reshape(shape).permute(perm).contiguous()


@reference("npu::npu_confusion_transpose_backward")
def npu_confusion_transpose_backward(
    grad: Tensor, perm: list[int], shape: list[int], transpose_first: bool
) -> Tensor:
    """Return the gradient for ``shape``; ``transpose_first`` is the opposite of the forward call's."""
    inverse = [perm.index(dim) for dim in range(len(perm))]
    if transpose_first:
        return grad.permute(inverse).reshape(shape).contiguous()
    return grad.reshape([shape[dim] for dim in perm]).permute(inverse).contiguous()


@reference("npu::_npu_dtype_cast", "npu::_npu_dtype_cast_backward")
def _npu_dtype_cast(input: Tensor, dtype: torch.dtype) -> Tensor:
    """Return input in another number format; the gradient is the cast back."""
    return input.to(dtype, copy=True)


@reference("npu::npu_dtype_cast")
def npu_dtype_cast(input: Tensor, dtype: int, input_dtype: int | None = None) -> Tensor:
    """The same by torch's number of the format; formats that only newer chips have are refused."""
    cover_only("npu_dtype_cast", input_dtype=input_dtype)
    if dtype not in _dtypes():
        raise NotEmulated(f"npu_dtype_cast: the emulator does not cover the number format {dtype}")
    return input.to(_dtypes()[dtype], copy=True)


def _dtypes() -> dict[int, torch.dtype]:
    """torch's dtypes by the numbers that torch_npu's schemas use; formats of its own are not among them."""
    return torch_npu.op_plugin.meta._meta_registrations.TORCH_DTYPE_ENUM_VALUE_TO_SCALAR_TYPE_MAP


@reference("npu::npu_dtype_cast_backward")
def npu_dtype_cast_backward(
    grad: Tensor, dtype: torch.dtype, grad_dtype: int | None = None, input_dtype: int | None = None
) -> Tensor:
    """Return the gradient in the number format of the input."""
    if any(number is not None and number not in _dtypes() for number in (grad_dtype, input_dtype)):
        raise NotEmulated(
            f"npu_dtype_cast_backward: the emulator does not cover the number format {grad_dtype}"
        )
    return grad.to(dtype, copy=True)


@reference("npu::npu_format_cast")
def npu_format_cast(
    input: Tensor, acl_format: int, *, customize_dtype: int | None = None, input_dtype: int | None = None
) -> Tensor:
    """Return input: private formats are off by default on these chips, and all others are base formats."""
    cover_only("npu_format_cast", customize_dtype=customize_dtype, input_dtype=input_dtype)
    allowed = torch_npu._C._npu_getOption("ALLOW_INTERNAL_FORMAT") != b"disable"
    if acl_format not in _BASE_FORMATS and allowed:
        raise NotEmulated(
            f"npu_format_cast: the emulator does not cover the private format {acl_format} with "
            f"torch.npu.config.allow_internal_format=True"
        )
    return input


@reference("npu::_npu_format_cast")
def _npu_format_cast(input: Tensor, acl_format: int) -> Tensor:
    """The form that autograd calls."""
    return npu_format_cast(input, acl_format)


@reference("npu::npu_format_cast_.acl_format")
def npu_format_cast_(
    input: Tensor, acl_format: int, *, customize_dtype: int | None = None, input_dtype: int | None = None
) -> Tensor:
    """The same in place."""
    return npu_format_cast(input, acl_format, customize_dtype=customize_dtype, input_dtype=input_dtype)


@reference("npu::npu_top_k_top_p")
def npu_top_k_top_p(logits: Tensor, p: Tensor | None = None, k: Tensor | None = None) -> Tensor:
    """Return logits with -inf outside of the k largest and, of those, the smallest set of probability p."""
    op = "npu_top_k_top_p"
    if p is None and k is None:
        raise Rejected(f"{op}: give p, k or both")
    if logits.dim() != 2:
        raise Rejected(f"{op}: logits {tuple(logits.shape)} must be [batch, vocabulary]")
    values, order = logits.sort(dim=-1, stable=True)  # ascending
    if k is not None:
        threshold = values.gather(1, logits.shape[1] - k.long().unsqueeze(1))
        values = values.masked_fill(values < threshold, -torch.inf)
    if p is not None:
        mass = values.float().softmax(-1).cumsum(-1)
        drop = mass <= 1 - p.float().unsqueeze(1)
        drop[:, -1] = False
        values = values.masked_fill(drop, -torch.inf)
    return torch.empty_like(logits).scatter_(1, order, values)
