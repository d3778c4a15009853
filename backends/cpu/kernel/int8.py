"""Products of int8 matrices by torch's operator, which knows the processor's 8-bit instructions."""

import torch
from torch import Tensor

from backends.cpu.kernel.library import takes
from portable.kernel.reference import quant as reference


@torch.no_grad()
def int8_matmul(x_ND: Tensor, weight_OD: Tensor, scale_O: Tensor) -> Tensor:
    """Compute ``int8_matmul`` of the reference."""
    reference.check_int8(x_ND, weight_OD, scale_O)
    if not takes(x_ND, scale_O):
        return reference.int8_matmul(x_ND, weight_OD, scale_O)
    codes_ND, scale_N = reference.quantize_int8(x_ND)
    sums_NO = torch._int_mm(codes_ND, weight_OD.contiguous().T)  # it misreads expanded weights
    return (sums_NO.float() * scale_N[:, None] * scale_O.float()).to(x_ND.dtype)
