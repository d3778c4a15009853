"""Rotary position embedding.

Shapes: B rows, T tokens, N query heads, K key heads, H head_dim, R rotated dims.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from portable.core.errors import ShapeError
from portable.kernel.reference.precision import accumulation_dtype


def rope_half(q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the first R dims of queries and keys by their positions' angles; the other dims pass through.

    y = x cos + rotate(x) sin. Dims i and i + R/2 form a pair, rotate(a, b) = (-b, a): the convention of Llama
    checkpoints in the Hugging Face layout. ``cos_BTR`` and ``sin_BTR`` hold a pair's angle at both its dims,
    the R/2 angles twice, one half after the other; a row may read either. They are constants: no gradient
    reaches them.

    Shapes: R is the tables' last dim; returns q and k turned.
    Dtype: that of q and k; the products are taken in float32.
    Raises: ShapeError if the tables do not match q and k, or R is not even and between 2 and H.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 34, with the halves instead of neighbours paired; R < H:
    Black et al. 2022, arXiv:2204.06745, section 2.1.
    """
    check_tables("rope_half", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return _turn(q_BTNH, cos_BTR, sin_BTR, _rotate_half), _turn(k_BTKH, cos_BTR, sin_BTR, _rotate_half)


def rope_interleave(
    q_BTNH: Tensor, k_BTKH: Tensor, cos_BTR: Tensor, sin_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Rotate the first R dims of queries and keys by their positions' angles; the other dims pass through.

    As ``rope_half``, but dims 2i and 2i + 1 form a pair, and the tables hold every angle twice in a row.

    Shapes, dtype, raises: as ``rope_half``.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
    """
    check_tables("rope_interleave", q_BTNH, k_BTKH, cos_BTR, sin_BTR)
    return (
        _turn(q_BTNH, cos_BTR, sin_BTR, _rotate_neighbours),
        _turn(k_BTKH, cos_BTR, sin_BTR, _rotate_neighbours),
    )


def check_tables(name: str, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Raise ShapeError unless q, k and the tables fit together; ``name`` is the op's."""
    if q.dim() != 4 or k.dim() != 4 or k.shape[:2] != q.shape[:2] or k.shape[-1] != q.shape[-1]:
        raise ShapeError(
            f"{name}: q {tuple(q.shape)} and k {tuple(k.shape)} must be (B, T, heads, head_dim) and differ "
            "in the number of heads only"
        )
    rotary_dim, head_dim = cos.shape[-1] if cos.dim() else 0, q.shape[-1]
    if cos.shape != sin.shape or cos.shape[:-1] != q.shape[:2]:
        raise ShapeError(
            f"{name}: q {tuple(q.shape)} and k {tuple(k.shape)} need tables of {tuple(q.shape[:2])} and the "
            f"number of rotated dims; got cos {tuple(cos.shape)}, sin {tuple(sin.shape)}"
        )
    if rotary_dim % 2 or not 2 <= rotary_dim <= head_dim:
        raise ShapeError(
            f"{name}: tables of {rotary_dim} rotated dims do not fit head_dim {head_dim}; "
            "dims turn in pairs, so give an even number from 2 to head_dim"
        )


def _turn(x: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rotate: Callable[[Tensor], Tensor]) -> Tensor:
    dtype = accumulation_dtype(x)
    cos, sin = (table.detach().to(dtype).unsqueeze(2) for table in (cos_BTR, sin_BTR))
    turning, passing = x[..., : cos.shape[-1]].to(dtype), x[..., cos.shape[-1] :]
    turned = (turning * cos + rotate(turning) * sin).to(x.dtype)
    return torch.cat((turned, passing), dim=-1) if passing.shape[-1] else turned


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _rotate_neighbours(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
