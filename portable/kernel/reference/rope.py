"""Rotary position embedding. Shapes: B rows, T tokens, N query heads, K key heads, H head_dim."""

import torch
from torch import Tensor

from portable.core.errors import ShapeError


def rope_half(q_BTNH: Tensor, k_BTKH: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their positions' angles.

    Dims i and i + H/2 form a pair: (a, b) -> (a cos - b sin, b cos + a sin). ``cos_BTH`` and ``sin_BTH`` hold
    the H/2 angles twice, one half after the other: the convention of Llama checkpoints in the Hugging Face
    layout.

    Dtype: that of q and k; the products are taken in the wider of theirs and the tables'.
    Raises: ShapeError if the tables do not match q and k.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 34, with the halves instead of neighbours paired.
    """
    wanted = (*q_BTNH.shape[:2], q_BTNH.shape[-1])
    if cos_BTH.shape != wanted or sin_BTH.shape != wanted or k_BTKH.shape[::3] != q_BTNH.shape[::3]:
        raise ShapeError(
            f"rope_half: q {tuple(q_BTNH.shape)} and k {tuple(k_BTKH.shape)} need tables of {wanted}; "
            f"got cos {tuple(cos_BTH.shape)}, sin {tuple(sin_BTH.shape)}"
        )
    cos, sin = cos_BTH.unsqueeze(2), sin_BTH.unsqueeze(2)
    return _rotate(q_BTNH, cos, sin), _rotate(k_BTKH, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
