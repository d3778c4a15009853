"""The sampler's cut in C++: selection instead of sorting the vocabulary. Shapes: N rows, V vocabulary."""

import torch
from torch import Tensor

from backends.cpu.kernel.library import load_native, takes
from portable.kernel.reference import sampling as reference

_cut = load_native().top_k_top_p.default


def top_k_top_p(logits_NV: Tensor, top_k_N: Tensor, top_p_N: Tensor) -> Tensor:
    """Compute ``top_k_top_p`` of the reference."""
    if not takes(logits_NV):
        return reference.top_k_top_p(logits_NV, top_k_N, top_p_N)
    reference.check_rows(logits_NV, top_k_N, top_p_N)
    logits = logits_NV.float()
    cut = _cut(logits.detach().contiguous(), top_k_N.long().contiguous(), top_p_N.float().contiguous())
    return logits.masked_fill(cut, -torch.inf)
