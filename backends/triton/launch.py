"""Starting programs: on the device of their tensors, with rows as the grid's first dim."""

from typing import Any

import torch
from torch import Tensor

from backends.triton import tuning

NAMESPACE = (
    "portable_triton"  # of our operators in torch's library: fake tensors and compilers see them there
)


def launch(kernel: Any, grid: tuple[int, ...], on: Tensor, *args: Any, **meta: Any) -> None:
    """Run ``kernel`` over ``grid`` on the device of ``on``; an empty grid is nothing to do.

    Any: Triton's kernels and what they take.
    """
    if 0 in grid:
        return
    if on.device.type == "cpu" or on.device.index == torch.cuda.current_device():
        kernel[grid](*args, **meta)
        return
    with torch.cuda.device(on.device):
        kernel[grid](*args, **meta)


def num_programs(work: int, device: torch.device) -> int:
    """Return how many programs share ``work`` items where each takes several: a few for every unit."""
    return min(work, 4 * tuning.machine(device).num_units)


def flat_rows(x: Tensor) -> Tensor:
    """Return ``x`` as contiguous rows of its last dim."""
    return x.reshape(-1, x.shape[-1]).contiguous() if x.shape[-1] else x.new_empty(0, 0)
