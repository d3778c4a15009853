"""The number format in which sums and products are taken."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float32, or float64 if one of ``tensors`` is: 16-bit formats are too short to add up in."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Keep matmuls of the block in the format of their operands, on the device of ``x``.

    Autocast would round float32 operands to 16 bits.
    """
    return torch.autocast(x.device.type, enabled=False) if _under_autocast(x) else nullcontext()


def matmul_operands(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return all in the format that a matmul here and now would use: autocast's, or the narrowest."""
    if _under_autocast(tensors[0]):
        dtype = torch.get_autocast_dtype(tensors[0].device.type)
    else:
        dtype = min((x.dtype for x in tensors), key=lambda item: item.itemsize)
    return tuple(x.to(dtype) for x in tensors)


def linear_dtype(x: Tensor) -> torch.dtype:
    """Return the format of a linear layer's result: autocast's, or that of its input ``x``."""
    return torch.get_autocast_dtype(x.device.type) if _under_autocast(x) else x.dtype


def _under_autocast(x: Tensor) -> bool:
    kind = x.device.type
    # Asking whether it is enabled fails where it does not exist, e.g. on meta tensors.
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
