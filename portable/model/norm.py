"""The norm layers. Their formulas are ``portable/kernel/reference/norm.py``."""

import torch
from torch import Tensor, nn

from portable.kernel.registry import KernelSet


class RmsNorm(nn.Module):
    """RMSNorm over the last dim with a learnt weight."""

    def __init__(self, size: int, eps: float, kernels: KernelSet) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self._rms_norm = kernels.pick("rms_norm", size=size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed ``x``."""
        return self._rms_norm(x, self.weight, self.eps)


class AddRmsNorm(nn.Module):
    """RMSNorm of a sum that is needed afterwards, too: one pass over both where the device has a kernel."""

    def __init__(self, size: int, eps: float, kernels: KernelSet) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self._add_rms_norm = kernels.pick("rms_norm", "add", size=size)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed ``x + residual``, and the sum."""
        return self._add_rms_norm(x, residual, self.weight, self.eps)
