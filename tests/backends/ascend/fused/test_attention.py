"""The row ``npu_fusion`` against the reference, through torch_npu's own function, schema and autograd."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from portable.core.errors import CapabilityError, ShapeError
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


def long_packed(lengths: list[int]) -> list[Tensor]:
    stream = torch.Generator().manual_seed(2)
    return [torch.randn(1, sum(lengths), heads, 8, generator=stream) for heads in (2, 1, 1)]


def test_more_segments_than_the_kernel_takes_at_once(row: ModuleType):
    lengths = [1 + index % 2 for index in range(1030)]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    check(
        lambda *inputs: row.attention(*inputs, cu_seqlens=bounds.to(inputs[0].device)),
        lambda *inputs: reference.attention(*inputs, cu_seqlens=bounds.to(inputs[0].device)),
        *long_packed(lengths),
    )


@pytest.mark.parametrize("name", ["attention", "attention_with_lse"])
def test_segments_without_queries_or_without_keys(row: ModuleType, name: str):
    """The kernel is asked only about the others: queries without keys give zeros, and -inf."""
    queries, keys = torch.tensor([0, 3, 3, 7, 12]), torch.tensor([0, 4, 6, 6, 12])

    def call(module: ModuleType, *inputs: Tensor) -> list[Tensor]:
        device = inputs[0].device
        given = {"cu_seqlens": queries.to(device), "cu_seqlens_k": keys.to(device)}
        results = getattr(module, name)(*inputs, **given)
        out, *lse = [results] if name == "attention" else results
        blind = torch.zeros(B * T, dtype=torch.bool)
        blind[3:7] = True
        blind = blind.view(B, T).to(device)
        assert not out[blind].any()
        for x in lse:
            assert (x[blind] == -torch.inf).all()
        return [out, *(x.masked_fill(blind[..., None], 0.0) for x in lse)]

    check(lambda *inputs: call(row, *inputs), lambda *inputs: call(reference, *inputs), *qkv())


@pytest.mark.parametrize("segments", ["rows", "with-empty"])
@pytest.mark.parametrize("more", [{}, {"causal": False}, {"window": 2}, {"align": "start"}, {"scale": -0.7}])
def test_the_gradient_of_the_log_sum_exp_alone(row: ModuleType, segments: str, more: dict[str, object]):
    bounds = SEGMENTS[segments]

    def lse(module: ModuleType, *inputs: Tensor) -> Tensor:
        ends = None if bounds is None else torch.tensor(bounds, device=inputs[0].device)
        out, lse = module.attention_with_lse(*inputs, cu_seqlens=ends, **more)
        return lse + 0 * out.sum()

    check(lambda *inputs: lse(row, *inputs), lambda *inputs: lse(reference, *inputs), *qkv())


def test_a_mask_first_made_for_inference_serves_training(row: ModuleType):
    q, k, v = (x.npu() for x in qkv())
    row._future.cache_clear()
    with torch.inference_mode():
        row.attention(q, k, v)
    row.attention(q.requires_grad_(), k, v).sum().backward()
    assert q.grad is not None


def test_a_window_from_the_start(row: ModuleType):
    """Of equal lengths start and end are one; of others the kernel cannot count from the start."""
    check(
        lambda *inputs: row.attention(*inputs, window=2, align="start"),
        lambda *inputs: reference.attention(*inputs, window=2, align="start"),
        *qkv(),
    )
    q, k, v = (x.npu() for x in qkv())
    with pytest.raises(CapabilityError, match="align='end'"):
        row.attention(q[:, 1:], k, v, window=2, align="start")


def test_whether_statistics_count_a_sink_is_not_guessed(row: ModuleType):
    with pytest.raises(CapabilityError, match="not documented"):
        row.attention_with_lse(*(x.npu() for x in qkv()), sink_N=torch.zeros(N, device="npu"))
