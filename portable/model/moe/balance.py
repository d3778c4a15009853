"""Spreading tokens over experts: losses on the router, and the bias that needs none.

Shapes: B rows, N tokens of all rows, E experts, K of them a token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Sum = Callable[[Tensor], Tensor]
"""Adds a tensor over ranks and returns the sum on each."""


def sequence_balance_loss(scores_NE: Tensor, top_k: int, num_rows: int, sum_counts: Sum) -> Tensor:
    """Return the sum over rows of tokens * sum over e of f_e * P_e, a scalar: tokens if the load is even.

    f_e = E / (K tokens) * how many tokens of the row have e among their K best scores, P_e = the mean score
    of e over the row. As written here, sum over tokens of f_e * score_e, ranks that share a row need only add
    up counts, and their losses add up to the loss of the whole row.

    Rows are the sequences: the loss does not depend on which rows share a micro-batch.
    Source: DeepSeek-AI 2024, arXiv:2412.19437, eq. 17 to 20, times the number of tokens.
    """
    num_experts = scores_NE.shape[-1]
    scores_BTE = scores_NE.unflatten(0, (num_rows, -1))
    best_BTK = scores_BTE.detach().topk(top_k, dim=-1).indices
    counts_BE = sum_counts(count_choices(best_BTK.flatten(1), num_experts))
    tokens_B1 = counts_BE.sum(-1, keepdim=True) / top_k
    load_BE = counts_BE * num_experts / (top_k * tokens_B1)
    return (load_BE * scores_BTE.sum(1)).sum()


def z_loss(logits_NE: Tensor) -> Tensor:
    """Return the sum over tokens of (log of the sum over e of exp(logit_e))^2, a scalar.

    Source: Zoph et al. 2022, arXiv:2202.08906, eq. 5, times the number of tokens.
    """
    return logits_NE.logsumexp(-1).square().sum()


def count_choices(choices: Tensor, num_experts: int) -> Tensor:
    """Return how often each expert occurs along the last dim of ``choices`` (..., M), as (..., E) float32."""
    counts = choices.new_zeros(*choices.shape[:-1], num_experts, dtype=torch.float32)
    return counts.scatter_add_(-1, choices, torch.ones_like(choices, dtype=torch.float32))


def moved_bias(bias_E: Tensor, counts_E: Tensor, rate: float) -> Tensor:
    """Return the bias after a step in which expert e was chosen ``counts_E[e]`` times, by all ranks' tokens.

    It grows by ``rate`` for experts with less than the mean load, and falls for those with more.
    Source: Wang et al. 2024, arXiv:2408.15664, algorithm 1.
    """
    return bias_E + rate * (counts_E.mean() - counts_E).sign().to(bias_E.dtype)
