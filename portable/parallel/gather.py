"""Whole tensors from their parts."""

from __future__ import annotations

import torch
from torch import Tensor

from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placement


def gather_whole(local: Tensor, placement: Placement, mesh: Mesh) -> Tensor:
    """Return the whole of a tensor, to the bit, on every rank that holds a part; undo the inner cuts first.

    All ranks of the axes that cut it must call. Without cuts it is ``local`` itself.
    """
    whole = local
    for cut in reversed(placement.cuts):
        group = mesh.group(cut.axis)
        if group.size > 1:
            parts = group.all_gather_uneven(whole.movedim(cut.dim, 0).contiguous())
            whole = torch.cat(parts).movedim(0, cut.dim).contiguous()
    return whole
