"""The row ``npu_fusion`` against the reference, through torch_npu's own function, schema and autograd."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from portable.core.errors import ShapeError
from portable.kernel.reference import attention as reference
from tests.backends.ascend.emulation.oracle import check

pytestmark = pytest.mark.ascend_emulation

B, T, N, H = 2, 6, 4, 16
# Of the largest value. A bfloat16 keeps 8 binary places; the fused kernel rounds its probabilities, too.
RTOL = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Bounds over the B * T tokens: segments that cross rows, and empty ones at both ends and inside.
SEGMENTS = {
    "rows": None,
    "one": [0, 12],
    "packed": [0, 1, 8, 12],
    "with-empty": [0, 0, 3, 3, 3, 10, 12, 12],
}


@pytest.fixture
def row(torch_npu: ModuleType) -> ModuleType:
    """The module of the row; importing it imports torch_npu."""
    import backends.ascend.fused.attention

    return backends.ascend.fused.attention


def qkv(dtype: torch.dtype = torch.float32, num_kv_heads: int = 2) -> list[Tensor]:
    stream = torch.Generator().manual_seed(0)
    return [torch.randn(B, T, heads, H, generator=stream).to(dtype) for heads in (N, *[num_kv_heads] * 2)]


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
@pytest.mark.parametrize("segments", SEGMENTS)
def test_values_and_gradients_are_the_references(
    row: ModuleType, segments: str, causal: bool, num_kv_heads: int, dtype: torch.dtype
):
    bounds = SEGMENTS[segments]

    def call(attention, *inputs: Tensor) -> Tensor:
        q = inputs[0]
        ends = None if bounds is None else torch.tensor(bounds, dtype=torch.int32, device=q.device)
        out = attention(*inputs, cu_seqlens=ends, causal=causal)
        assert (out.shape, out.dtype, out.device) == (q.shape, q.dtype, q.device)
        return out

    check(
        lambda *inputs: call(row.attention, *inputs),
        lambda *inputs: call(reference.attention, *inputs),
        *qkv(dtype, num_kv_heads),
        rtol=RTOL[dtype],
    )


def test_a_scale_of_ones_own(row: ModuleType):
    for scale in (0.0, 0.3, -2.0):
        check(
            lambda *inputs, scale=scale: row.attention(*inputs, scale=scale),
            lambda *inputs, scale=scale: reference.attention(*inputs, scale=scale),
            *qkv(),
        )


def test_slices_of_one_projection(row: ModuleType):
    """Queries, keys and values that share a storage are not contiguous; their gradients meet in it."""
    projected = torch.randn(B, T, (N + 2 + 2) * H, generator=torch.Generator().manual_seed(1))

    def call(attention, x: Tensor) -> Tensor:
        return attention(*x.unflatten(2, (-1, H)).split((N, 2, 2), dim=2))

    check(lambda x: call(row.attention, x), lambda x: call(reference.attention, x), projected)


@pytest.mark.parametrize("shape", [(0, T), (B, 0)])
def test_no_tokens_give_none(row: ModuleType, shape: tuple[int, int]):
    empty = torch.zeros(*shape, N, H, device="npu")
    assert row.attention(empty, empty, empty).shape == (*shape, N, H)


@pytest.mark.parametrize("bounds", [[0, 5], [1, 12], [0, 7, 5, 12], [0, 13]])
def test_bounds_that_do_not_cover_the_tokens_are_refused(row: ModuleType, bounds: list[int]):
    with pytest.raises(ShapeError, match="number of tokens, 12"):
        row.attention(*(x.npu() for x in qkv()), cu_seqlens=torch.tensor(bounds, device="npu"))


def test_heads_that_do_not_divide_are_refused(row: ModuleType):
    with pytest.raises(ShapeError, match="multiple of their heads"):
        row.attention(*(x.npu() for x in qkv(num_kv_heads=3)))
