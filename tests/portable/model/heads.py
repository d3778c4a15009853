"""The loss with all logits kept, which every head is held against."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def with_all_logits(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Return log p(target) of every token, 0 for a negative target: an eager ``token_log_probs``."""
    logits_NV = F.linear(hidden_ND, weight_VD).float() / temperature
    log_probs_NV = logits_NV.log_softmax(-1)
    chosen_N = log_probs_NV.gather(-1, targets_N.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return chosen_N.masked_fill(targets_N < 0, 0.0)
