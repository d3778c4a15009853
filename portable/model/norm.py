"""The norm layer."""

import torch
from torch import Tensor, nn

from portable.kernel.registry import KernelSet


class RmsNorm(nn.Module):
    """RMSNorm over the last dim with a learnt weight; the formula is
    ``portable/kernel/reference/norm.py``."""

    def __init__(self, size: int, eps: float, kernels: KernelSet) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self._rms_norm = kernels.pick("rms_norm")

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed ``x``."""
        return self._rms_norm(x, self.weight, self.eps)
