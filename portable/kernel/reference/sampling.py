"""Which tokens a sampler may draw. Shapes: N rows, V vocabulary."""

import torch
from torch import Tensor

from portable.core.errors import ShapeError
from portable.kernel.reference.precision import accumulation_dtype


def top_k_top_p(logits_NV: Tensor, top_k_N: Tensor, top_p_N: Tensor) -> Tensor:
    """Keep the ``top_k`` best tokens of each row, of these the fewest that together reach ``top_p``, and set
    the rest to -inf.

    The probabilities are those after the cut to ``top_k``; a token is kept if those before it, in falling
    order, do not reach ``top_p``. The best token is always kept. Of equal logits the lower index comes first.
    ``top_k`` = 0 and ``top_p`` >= 1 cut nothing. Rows of nothing but -inf stay as they are.

    Shapes: top_k_N (N,) int64, top_p_N (N,); returns (N, V).
    Dtype: float32, in which the probabilities are summed.
    Raises: ShapeError if the inputs do not fit.
    Source: Fan et al. 2018, arXiv:1805.04833, section 5 (top-k); Holtzman et al. 2020, arXiv:1904.09751,
    section 3.1 (top-p).
    """
    check_rows(logits_NV, top_k_N, top_p_N)
    logits_NV = logits_NV.to(accumulation_dtype(logits_NV))
    sorted_NV, order_NV = logits_NV.detach().sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(sorted_NV.shape[1], device=sorted_NV.device)
    outside_NV = (top_k_N[:, None] > 0) & (rank_V >= top_k_N[:, None])
    probs_NV = sorted_NV.masked_fill(outside_NV, -torch.inf).softmax(-1)
    before_NV = probs_NV.cumsum(-1) - probs_NV
    cut_NV = outside_NV | ((top_p_N[:, None] < 1) & (before_NV >= top_p_N[:, None]))
    cut_NV[:, :1] = False
    return logits_NV.masked_fill(torch.empty_like(cut_NV).scatter_(1, order_NV, cut_NV), -torch.inf)


def check_rows(logits_NV: Tensor, top_k_N: Tensor, top_p_N: Tensor) -> None:
    """Raise ShapeError unless every row has its own k and p."""
    if logits_NV.ndim != 2 or not top_k_N.shape == top_p_N.shape == logits_NV.shape[:1]:
        raise ShapeError(
            f"top_k_top_p: logits {tuple(logits_NV.shape)}, top_k {tuple(top_k_N.shape)} and top_p "
            f"{tuple(top_p_N.shape)} must be (N, V), (N,) and (N,)"
        )
