"""Products of 8-bit matrices: by the device, or the same numbers computed in float32.

Shapes: a (M, K), b (N, K); the product is a bᵀ (M, N).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from portable.kernel.reference.precision import without_autocast
from portable.parallel.float8.quantize import Scaled

Matmul = Callable[[Scaled, Scaled, torch.dtype], Tensor]
MULTIPLE = 16  # of the dims of what the device multiplies


def by_device(a: Scaled, b: Scaled, dtype: torch.dtype) -> Tensor:
    """Multiply by ``torch._scaled_mm``; rows of ``a`` and the inner dim are filled up to a multiple of 16.

    Scales by rows give 16-bit results only, there.
    """
    rows, inner = a.codes.shape
    scale_a, scale_b = a.scale, b.scale.t()
    extra = -inner % MULTIPLE
    codes_a, codes_b = (_fill(x, extra) for x in (a.codes, b.codes))
    by_rows = scale_a.numel() > 1 or scale_b.numel() > 1
    if by_rows:
        scale_a, scale_b = scale_a.expand(rows, 1).contiguous(), scale_b.expand(1, len(b.codes)).contiguous()
    out_dtype = torch.bfloat16 if by_rows and dtype is torch.float32 else dtype
    # There is no public name for it, nor another product of 8-bit matrices.
    product = torch._scaled_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        codes_a, codes_b.t(), scale_a, scale_b, out_dtype=out_dtype
    )
    return product.to(dtype)


def in_float32(a: Scaled, b: Scaled, dtype: torch.dtype) -> Tensor:
    """Multiply the values that the codes stand for, sums in float32."""
    with without_autocast(a.codes):
        product = a.codes.float() @ b.codes.float().t()
    return (product * a.scale * b.scale.t()).to(dtype)


def _fill(codes: Tensor, extra: int) -> Tensor:
    if not extra:
        return codes.contiguous()
    return F.pad(codes.view(torch.uint8), (0, extra)).view(codes.dtype)  # a zero byte is a zero
