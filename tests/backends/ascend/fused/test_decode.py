"""Decoding by the fused kernel against the reference: caches that were cut, pages of many kinds, float32."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from portable.core.errors import CapabilityError
from portable.kernel.reference import decode as reference
from tests.backends.ascend.emulation.oracle import close

pytestmark = pytest.mark.ascend_emulation

B, N, K, H = 3, 4, 2, 16
LENGTHS = torch.tensor([5, 0, 40])
RTOL = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture
def row(torch_npu: ModuleType) -> ModuleType:
    import backends.ascend.fused.decode

    return backends.ascend.fused.decode


def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])).to(dtype)


def exact(function: Any, *inputs: Tensor, **more: Any) -> Tensor:
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    return function(*wide, **more)


@pytest.fixture
def recorded(row: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What the operator was given as keys and values."""
    seen: list[tuple[Tensor, Tensor]] = []
    operator = row.torch_npu.npu_fused_infer_attention_score

    def record(query: Tensor, key: Tensor, value: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        seen.append((key, value))
        return operator(query, key, value, **more)

    monkeypatch.setattr(row.torch_npu, "npu_fused_infer_attention_score", record)
    return seen


@pytest.mark.parametrize("window", [None, 1, 7])
def test_a_cache_cut_behind_its_longest_row_is_not_copied(
    row: ModuleType, recorded: list[tuple[Tensor, Tensor]], window: int | None
):
    """As the engine reads its slots. What lies behind the cut is not read, whatever it is."""
    q, caches = draw(B, N, H), [draw(B + 1, 64, K, H), draw(B + 2, 64, K, H)[1:]]
    for cache in caches:
        cache[:, 40:] = torch.nan
    k, v = (cache[:B, :40] for cache in caches)
    on_device = [cache.npu()[:B, :40] for cache in caches]
    out = row.decode_attention(q.npu(), *on_device, LENGTHS.npu(), window=window)
    close(out, exact(reference.decode_attention, q, k, v, LENGTHS, window=window), 1e-2, "output")
    for given, ours in zip(recorded[0], on_device, strict=True):
        assert given.data_ptr() == ours.data_ptr()
        assert given.shape[1] == 64


def test_a_cut_that_memory_does_not_fill_up_is_copied(row: ModuleType, recorded: list[tuple[Tensor, Tensor]]):
    q, k, v = draw(B, N, H), draw(B, 64, K, H), draw(B, 64, K, H)
    late = [x.npu()[:, 24:] for x in (k, v)]
    out = row.decode_attention(q.npu(), *late, LENGTHS.npu())
    close(out, exact(reference.decode_attention, q, k[:, 24:], v[:, 24:], LENGTHS), 1e-2, "output")
    assert recorded[0][0].data_ptr() != late[0].data_ptr()


PAGED = [(16, None, None), (16, 3, None), (128, None, 0.7), (512, 30, None)]  # size of a page, window, scale


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize(("page_size", "window", "scale"), PAGED)
def test_pages(row: ModuleType, page_size: int, window: int | None, scale: float | None, dtype: torch.dtype):
    """Shared pages, a table with -1 behind the last page of a row, and a row of nothing."""
    q, *pages = (draw(*shape, dtype=dtype) for shape in ((B, N, H), *[(4, page_size, K, H)] * 2))
    table = torch.full((B, 4), -1)
    table[0, 0] = 2
    needed = -(-int(LENGTHS[2]) // page_size)
    table[2, :needed] = torch.tensor([3, 2, 0])[:needed]
    more = {"window": window, "scale": scale}
    out = row.paged_attention(q.npu(), *(x.npu() for x in pages), table.npu(), LENGTHS.npu(), **more)
    assert out.dtype == dtype
    close(out, exact(reference.paged_attention, q, *pages, table, LENGTHS, **more), RTOL[dtype], "output")
    assert not out[1].any()


def test_a_sink_is_refused(row: ModuleType):
    q, cache = draw(B, N, H).npu(), draw(B, 40, K, H).npu()
    with pytest.raises(CapabilityError, match="no sink"):
        row.decode_attention(q, cache, cache, LENGTHS.npu(), sink_N=torch.zeros(N, device="npu"))
