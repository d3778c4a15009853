"""The z-loss of the head: the softmax's normaliser is kept near 1.

Shapes: N tokens, D hidden, V vocabulary.
"""

from torch import Tensor

from portable.kernel.reference.precision import accumulation_dtype


def target_logits(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Return hidden . weight[target] of every token, (N,), float32; a negative target is read as 0."""
    dtype = accumulation_dtype(hidden_ND)
    return (hidden_ND.to(dtype) * weight_VD[targets_N.clamp(min=0)].to(dtype)).sum(-1)


def z_loss(target_logits_N: Tensor, log_probs_N: Tensor, targets_N: Tensor) -> Tensor:
    """Return the sum of lse(logits)^2 over the tokens whose target is not negative, a scalar.

    lse = logit of the target - log p(target): whatever computes log-probabilities, logits need not be kept.
    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.
    """
    lse_N = (target_logits_N - log_probs_N).masked_fill(targets_N < 0, 0.0)
    return lse_N.square().sum()
