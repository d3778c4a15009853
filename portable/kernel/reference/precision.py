"""The number format in which sums are taken."""

import torch
from torch import Tensor


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Return float32, or float64 for float64 input: 16-bit formats are too short to add up in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
