"""Numbers in 8-bit floating point, with scales that are found when they are needed.

Source: Micikevicius et al. 2022, arXiv:2209.05433: e4m3 for weights and activations, e5m2 for gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portable.device.capability import Fp8Format

OCP = Fp8Format("float8_e4m3fn", 448.0, "float8_e5m2", 57344.0)
"""The formats of the Open Compute Project, for devices that name none."""
_SMALLEST = 1e-12  # below it a matrix counts as zero, and a scale would overflow


@dataclass(frozen=True, slots=True)
class Scaled:
    """A matrix (M, K) as ``codes`` times ``scale``: (1, 1) for all of it, or (M, 1) for every row."""

    codes: Tensor
    scale: Tensor

    @property
    def value(self) -> Tensor:
        """What it stands for, float32."""
        return self.codes.float() * self.scale


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Rounds matrices to one format; ``rowwise`` gives every row a scale of its own."""

    dtype: torch.dtype
    largest: float
    rowwise: bool

    def __call__(self, matrix_MK: Tensor) -> Scaled:
        """Scale so that the largest entry (of a row) is the format's largest number, and round to nearest."""
        wide = matrix_MK.float()
        peak = wide.abs().amax(dim=1, keepdim=True) if self.rowwise else wide.abs().amax().reshape(1, 1)
        scale = peak.clamp(min=_SMALLEST) / self.largest
        codes = (wide / scale).clamp(-self.largest, self.largest)  # casts do not saturate
        return Scaled(codes.to(self.dtype), scale)


def quantizers(formats: Fp8Format, *, rowwise: bool) -> tuple[Quantizer, Quantizer]:
    """Return those of values and of gradients."""
    value: torch.dtype = getattr(torch, formats.e4m3)
    gradient: torch.dtype = getattr(torch, formats.e5m2)
    return (
        Quantizer(value, formats.e4m3_max, rowwise),
        Quantizer(gradient, formats.e5m2_max, rowwise),
    )
