"""Normalisation of token vectors. Shapes: B rows, T tokens, D hidden (any leading dims will do)."""

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
    check_weight("rms_norm", x_BTD, weight_D)
    # Rounded before the weight is applied, as the checkpoints of the field were trained.
    return (weight_D * _to_unit_rms(x_BTD, eps).to(x_BTD.dtype)).to(x_BTD.dtype)


def rms_norm_one_plus_w(x_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale every token vector to unit root mean square, then by 1 + ``weight_D``.

    y = x / sqrt(mean(x^2) + eps) * (1 + weight)

    Shapes: x_BTD (..., D), weight_D (D,); returns the shape of x_BTD.
    Dtype: that of ``x_BTD``; everything in float32, rounded once: in 16 bits 1 + w would lose a small w.
    Raises: ShapeError if ``weight_D`` does not match the last dim.
    Source: Gemma (Gemma Team 2024, arXiv:2403.08295, section 2), whose weights are stored as w.
    """
    check_weight("rms_norm_one_plus_w", x_BTD, weight_D)
    normed = _to_unit_rms(x_BTD, eps)
    return (normed * (1 + weight_D.to(normed.dtype))).to(x_BTD.dtype)


def add_rms_norm(
    x_BTD: Tensor, residual_BTD: Tensor, weight_D: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Add a layer's output to the residual stream and normalise the sum for the next layer.

    s = x + residual, y = rms_norm(s, weight, eps); returns (y, s).

    Shapes: x_BTD and residual_BTD (..., D) alike, weight_D (D,); y and s have that shape.
    Dtype: both that of x + residual, the wider of the two; s is rounded to it before it is normalised.
    Raises: ShapeError if the shapes differ or ``weight_D`` does not match the last dim.
    Source: ``rms_norm`` of the pre-norm residual stream, Xiong et al. 2020, arXiv:2002.04745, section 3.
    """
    check_residual("add_rms_norm", x_BTD, residual_BTD)
    check_weight("add_rms_norm", x_BTD, weight_D)
    sum_BTD = x_BTD + residual_BTD
    return rms_norm(sum_BTD, weight_D, eps), sum_BTD


def layer_norm(x_BTD: Tensor, weight_D: Tensor, bias_D: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Shift and scale every token vector to mean 0 and variance 1, then by ``weight_D`` and ``bias_D``.

    y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias

    Shapes: x_BTD (..., D), weight_D and bias_D (D,); returns the shape of x_BTD.
    Dtype: that of ``x_BTD``; everything in float32, rounded once.
    Raises: ShapeError if ``weight_D`` or ``bias_D`` does not match the last dim.
    Source: Ba et al. 2016, arXiv:1607.06450, eq. 4.
    """
    check_weight("layer_norm", x_BTD, weight_D, bias_D)
    x = x_BTD.to(accumulation_dtype(x_BTD))
    centred = x - x.mean(-1, keepdim=True)
    normed = _to_unit_rms(centred, eps) * weight_D.to(x.dtype)
    return (normed if bias_D is None else normed + bias_D.to(x.dtype)).to(x_BTD.dtype)


def check_weight(name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """Raise ShapeError unless ``weight`` and ``bias`` match the last dim of ``x``; ``name`` is the op's."""
    for field, vector in (("weight", weight), ("bias", bias)):
        if vector is not None and (x.dim() == 0 or vector.shape != x.shape[-1:]):
            raise ShapeError(
                f"{name}: {field} {tuple(vector.shape)} does not match x {tuple(x.shape)}; it needs (D,), "
                "with D the last dim of x"
            )


def check_residual(name: str, x: Tensor, residual: Tensor) -> None:
    """Raise ShapeError unless ``x`` and ``residual`` have one shape; ``name`` is the op's."""
    if x.shape != residual.shape:
        raise ShapeError(
            f"{name}: x {tuple(x.shape)} and residual {tuple(residual.shape)} must have one shape"
        )


def _to_unit_rms(x: Tensor, eps: float) -> Tensor:
    x = x.to(accumulation_dtype(x))
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
