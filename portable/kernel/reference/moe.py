"""Mixture of experts: choosing experts, ordering rows by expert, computing, and putting rows back.

Shapes: N tokens, E experts, K experts a token, M = N * K rows in the order of their experts, D in, F out.
"""

import torch
from torch import Tensor

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.precision import accumulation_dtype, linear_dtype, matmul_operands

# DeepSeek-V3's guard against dividing by a sum of nothing.
NORM_EPS = 1e-20


def moe_gate_softmax(logits_NE: Tensor, *, top_k: int, renormalize: bool = True) -> tuple[Tensor, Tensor]:
    """Return the ``top_k`` largest of softmax(logits) and their experts, largest first.

    With ``renormalize`` the weights of a token sum to 1. Of equal logits the lower expert comes first.

    Shapes: returns weights (N, K) and experts (N, K) int64.
    Dtype: weights in float32.
    Raises: ShapeError unless logits are (N, E), ConfigError unless 1 <= top_k <= E.
    Source: Jiang et al. 2024, arXiv:2401.04088, section 2.1 (renormalised); without, Shazeer et al. 2017,
    arXiv:1701.06538, eq. 2.
    """
    check_gate("moe_gate_softmax", logits_NE, top_k)
    logits = logits_NE.to(accumulation_dtype(logits_NE))
    experts = _best(logits, top_k)
    weights = logits.softmax(-1).gather(-1, experts)
    return (weights / weights.sum(-1, keepdim=True) if renormalize else weights), experts


def moe_gate_sigmoid(
    logits_NE: Tensor,
    *,
    top_k: int,
    bias_E: Tensor | None = None,
    renormalize: bool = True,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return ``scale`` * sigmoid(logits) of the ``top_k`` experts whose sigmoid(logits) + bias is largest.

    The bias decides the choice and is not part of the weights, nor does it get a gradient: it is what
    balances the experts' load. With ``renormalize`` the weights of a token sum to ``scale``. Of equal scores
    the lower expert comes first.

    Shapes: bias_E (E,); returns weights (N, K) and experts (N, K) int64, the largest score first.
    Dtype: weights in float32, in which the choice is made, too.
    Raises: ShapeError unless shapes fit, ConfigError unless 1 <= top_k <= E.
    Source: DeepSeek-AI 2024, arXiv:2412.19437, eq. 12 to 16, with one group of experts.
    """
    check_gate("moe_gate_sigmoid", logits_NE, top_k, bias_E)
    scores = logits_NE.to(accumulation_dtype(logits_NE)).sigmoid()
    experts = _best(scores if bias_E is None else scores + bias_E.to(scores.dtype), top_k)
    weights = scores.gather(-1, experts)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + NORM_EPS)
    return (weights if scale == 1.0 else weights * scale), experts


def moe_permute(x_ND: Tensor, experts_NK: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Copy every token once for each of its experts, in the order of the experts, then of the tokens.

    Shapes: experts_NK (N, K) int64 below ``num_experts``; returns the rows (M, D), the row of each choice (N,
    K) int64, so that rows[slots[n, k]] = x[n], and the number of rows of each expert (E,) int64.
    Dtype: that of ``x_ND``; the gradients of a token's copies are summed in float32.
    Raises: ShapeError if x and experts do not fit.
    Source: Gale et al. 2022, arXiv:2211.15841, section 5.2, without padding.
    """
    check_choices(x_ND, experts_NK)
    order_M, slots_NK = sort_choices(experts_NK)
    # Copies are made before they are ordered: autograd then adds a token's K gradients in one sum, rounded
    # once.
    copies_MD = x_ND.unsqueeze(1).expand(-1, experts_NK.shape[1], -1).flatten(0, 1)
    return copies_MD[order_M], slots_NK, count_rows(experts_NK, num_experts)


def sort_choices(experts_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the choices n * K + k in the order of their experts (M,), and each one's place there (N, K)."""
    order_M = experts_NK.flatten().argsort(stable=True)
    places_M = torch.arange(order_M.numel(), device=order_M.device)
    return order_M, torch.empty_like(order_M).scatter_(0, order_M, places_M).view(experts_NK.shape)


def count_rows(experts_NK: Tensor, num_experts: int) -> Tensor:
    """Return how many choices fell on each expert, (E,) int64."""
    flat_M = experts_NK.flatten()
    return flat_M.new_zeros(num_experts).scatter_add_(0, flat_M, torch.ones_like(flat_M))


def moe_unpermute(y_MD: Tensor, slots_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """Return sum over k of weights[n, k] * y[slots[n, k]] for every token n.

    Shapes: slots_NK as from ``moe_permute``; returns (N, D).
    Dtype: that of ``y_MD``; products and sum in float32.
    Raises: ShapeError if the inputs do not fit.
    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1.
    """
    check_slots(y_MD, slots_NK, weights_NK)
    dtype = accumulation_dtype(y_MD)
    return (y_MD[slots_NK].to(dtype) * weights_NK.to(dtype).unsqueeze(-1)).sum(1).to(y_MD.dtype)


def grouped_matmul(x_MD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Multiply the first counts[0] rows of x by weight[0], the next counts[1] by weight[1], and so on.

    Shapes: counts_E (E,) int64, any of them 0, together M; returns (M, F).
    Dtype: that of ``x_MD``, or autocast's; the matmuls in autocast's or the narrower of the inputs' formats.
    Raises: ShapeError if the inputs do not fit or the counts do not add up to M.
    Source: Gale et al. 2022, arXiv:2211.15841, section 2.1.
    """
    counts = group_sizes(x_MD, weight_EDF, counts_E)
    x, weight = matmul_operands(x_MD, weight_EDF)
    groups = zip(x.split(counts), weight.unbind(), strict=True) if counts else ()
    products = [rows @ matrix for rows, matrix in groups]
    return (torch.cat(products) if products else x @ weight.sum(0)).to(linear_dtype(x_MD))


def group_sizes(x_MD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> list[int]:
    """Return the counts on the host. Raises: ShapeError if they do not add up or the inputs do not fit."""
    if x_MD.ndim != 2 or weight_EDF.ndim != 3 or x_MD.shape[1:] != weight_EDF.shape[1:2]:
        raise ShapeError(
            f"grouped_matmul: x {tuple(x_MD.shape)} and weight {tuple(weight_EDF.shape)} must be (M, D) "
            "and (E, D, F)"
        )
    counts: list[int] = counts_E.tolist()
    if len(counts) != weight_EDF.shape[0] or sum(counts) != x_MD.shape[0] or min(counts, default=0) < 0:
        raise ShapeError(
            f"grouped_matmul: counts {counts[:8]}{' ...' if len(counts) > 8 else ''} must give each of the "
            f"{weight_EDF.shape[0]} experts its share of {x_MD.shape[0]} rows"
        )
    return counts


def check_gate(op: str, logits_NE: Tensor, top_k: int, bias_E: Tensor | None = None) -> None:
    """Raise unless logits are (N, E), the bias (E,), and ``top_k`` experts can be chosen."""
    if logits_NE.ndim != 2 or (bias_E is not None and bias_E.shape != logits_NE.shape[1:]):
        bias = None if bias_E is None else tuple(bias_E.shape)
        raise ShapeError(f"{op}: logits {tuple(logits_NE.shape)} and bias {bias} must be (N, E) and (E,)")
    if not 1 <= top_k <= logits_NE.shape[1]:
        raise ConfigError(
            f"{op}: top_k={top_k}; with {logits_NE.shape[1]} experts it must be one of 1 to that"
        )


def check_choices(x_ND: Tensor, experts_NK: Tensor) -> None:
    """Raise ShapeError unless every row of x has its experts."""
    if x_ND.ndim != 2 or experts_NK.ndim != 2 or len(x_ND) != len(experts_NK):
        raise ShapeError(
            f"moe_permute: x {tuple(x_ND.shape)} and experts {tuple(experts_NK.shape)} must be (N, D) "
            "and (N, K)"
        )


def check_slots(y_MD: Tensor, slots_NK: Tensor, weights_NK: Tensor) -> None:
    """Raise ShapeError unless every choice has a weight and a row."""
    if (
        y_MD.ndim != 2
        or slots_NK.ndim != 2
        or slots_NK.shape != weights_NK.shape
        or len(y_MD) != slots_NK.numel()
    ):
        raise ShapeError(
            f"moe_unpermute: y {tuple(y_MD.shape)}, slots {tuple(slots_NK.shape)} and weights "
            f"{tuple(weights_NK.shape)} must be (N * K, D), (N, K) and (N, K)"
        )


def _best(scores_NE: Tensor, top_k: int) -> Tensor:
    # Not topk: which of equal scores it takes differs from device to device.
    return scores_NE.detach().sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
