"""Products of int8 numbers by the NPU's operators.

Shapes: N rows, D in, O out.
Limits: 16-bit x, D and O to 65535 (the rest goes to the reference); no gradient.
Source: torch_npu 2.13.0, documentation of ``npu_dynamic_quant`` and ``npu_quant_matmul``.
"""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor

from portable.kernel.reference import quant as reference

_FORMATS = (torch.float16, torch.bfloat16)
_MAX_SIZE = 65_535


@torch.no_grad()
def int8_matmul(x_ND: Tensor, weight_OD: Tensor, scale_O: Tensor) -> Tensor:
    """Compute ``int8_matmul`` of the reference."""
    reference.check_int8(x_ND, weight_OD, scale_O)
    is_empty = x_ND.numel() == 0 or weight_OD.numel() == 0
    if x_ND.dtype not in _FORMATS or is_empty or max(weight_OD.shape) > _MAX_SIZE:
        return reference.int8_matmul(x_ND, weight_OD, scale_O)
    codes_ND, scale_N = torch_npu.npu_dynamic_quant(x_ND.contiguous())
    return torch_npu.npu_quant_matmul(
        codes_ND,
        weight_OD.contiguous().T,
        scale_O.float().contiguous(),
        pertoken_scale=scale_N,
        output_dtype=x_ND.dtype,
    )
