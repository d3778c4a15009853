"""Root mean square normalisation. Shapes: B rows, T tokens, D hidden (any leading dims will do)."""

import torch
from torch import Tensor

from portable.core.errors import ShapeError
from portable.kernel.reference.precision import accumulation_dtype


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale every token vector to unit root mean square, then by ``weight_D``.

    y = x / sqrt(mean(x^2) + eps) * weight

    Shapes: x_BTD (..., D), weight_D (D,); returns the shape of x_BTD.
    Dtype: that of ``x_BTD``; the mean is taken in float32.
    Raises: ShapeError if ``weight_D`` does not match the last dim.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """
    if weight_D.shape != x_BTD.shape[-1:]:
        raise ShapeError(
            f"rms_norm: weight {tuple(weight_D.shape)} does not match x {tuple(x_BTD.shape)}; it needs (D,)"
        )
    x = x_BTD.to(accumulation_dtype(x_BTD))
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    # Rounded before the weight is applied, as the checkpoints of the field were trained.
    return (weight_D * normed.to(x_BTD.dtype)).to(x_BTD.dtype)
