"""Decoding attention of the chip against a plain formulation in float64: caches, pages, masks, refusals."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.backends.ascend.emulation.oracle import close

pytestmark = pytest.mark.ascend_emulation

B, N, G, K, D, PAGE = 3, 4, 2, 32, 16, 16
LENGTHS = [5, 32, 1]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-2])).bfloat16()


def plain(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], before: int = K) -> Tensor:
    """(B, 1, N, D) from the last ``before`` of the first ``lengths`` keys of every row."""
    rows = []
    for q, k, v, length in zip(query.double(), key.double(), value.double(), lengths, strict=True):
        seen = slice(max(0, length - before), length)
        k, v = (x[seen].repeat_interleave(N // G, 1) for x in (k, v))
        weights = (torch.einsum("qnd,knd->nqk", q, k) * 0.3).softmax(-1)
        rows.append(torch.einsum("nqk,knd->qnd", weights, v))
    return torch.stack(rows)


def run(
    torch_npu: ModuleType, query: Tensor, key: Tensor, value: Tensor, **more: Any
) -> tuple[Tensor, Tensor]:
    given = {
        "num_heads": N,
        "num_key_value_heads": G,
        "scale": 0.3,
        "input_layout": "BSND",
        "actual_seq_lengths_kv": LENGTHS,
        **more,
    }
    return torch_npu.npu_fused_infer_attention_score(query.npu(), key.npu(), value.npu(), **given)


@pytest.fixture
def qkv() -> list[Tensor]:
    return [draw(B, 1, N, D), draw(B, K, G, D), draw(B, K, G, D)]


@pytest.mark.parametrize("layout", ["BSND", "BNSD", "BSH"])
def test_layouts_and_lengths(torch_npu: ModuleType, qkv: list[Tensor], layout: str):
    turn = {
        "BSND": lambda x: x,
        "BNSD": lambda x: x.transpose(1, 2).contiguous(),
        "BSH": lambda x: x.flatten(2),
    }[layout]
    out, lse = run(torch_npu, *(turn(x) for x in qkv), input_layout=layout, softmax_lse_flag=True)
    close(out, turn(plain(*qkv, LENGTHS)), 1e-2, "output")
    assert lse.shape == (B, N, 1, 1)
    first = (qkv[0][2, 0].double() * qkv[1][2, 0].double().repeat_interleave(N // G, 0)).sum(-1) * 0.3
    close(lse[2].flatten(), first, 1e-5, "log-sum-exp of one key")


def test_one_length_is_that_of_all_rows(torch_npu: ModuleType, qkv: list[Tensor]):
    out, lse = run(torch_npu, *qkv, actual_seq_lengths_kv=[7])
    close(out, plain(*qkv, [7] * B), 1e-2, "output")
    assert lse.cpu().tolist() == [0.0]


def test_a_mask_forbids_where_it_is_true(torch_npu: ModuleType, qkv: list[Tensor]):
    lengths = torch.tensor(LENGTHS)[:, None]
    forbidden = (torch.arange(K) < lengths - 3)[:, None, None].contiguous()
    out, _ = run(torch_npu, *qkv, atten_mask=forbidden.npu())
    close(out, plain(*qkv, LENGTHS, before=3), 1e-2, "output")


def test_pages_in_any_order(torch_npu: ModuleType, qkv: list[Tensor]):
    query, key, value = qkv
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    pages = [torch.empty(6, PAGE, G * D, dtype=torch.bfloat16) for _ in range(2)]
    for page, x in zip(pages, (key, value), strict=True):
        page[order] = x.reshape(6, PAGE, G * D)
    table = order.view(B, 2).int()
    out, _ = run(torch_npu, query, *pages, block_table=table.npu(), block_size=PAGE)
    close(out, plain(*qkv, LENGTHS), 1e-2, "output")


def test_what_lies_behind_the_length_is_not_read(torch_npu: ModuleType, qkv: list[Tensor]):
    for x in qkv[1:]:
        x[0, LENGTHS[0] :] = torch.nan
    out, _ = run(torch_npu, *qkv)
    close(out, plain(*qkv, LENGTHS), 1e-2, "output")


REFUSED: dict[str, dict[str, Any]] = {
    # what is wrong: what is said of it
    "float32": {"said": "float16 or bfloat16"},
    "not contiguous": {"said": "non-contiguous"},
    "heads": {"said": "multiple of the others", "num_key_value_heads": 3},
    "invalid rows": {"said": "0 or 1", "inner_precise": 2},
    "lengths": {"said": "0 to 32", "actual_seq_lengths_kv": [33]},
    "mask": {"said": "atten_mask", "atten_mask": torch.zeros(B, 1, 1, K - 1, dtype=torch.bool)},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_chip_refuses(torch_npu: ModuleType, qkv: list[Tensor], case: str):
    said, *_ = (more := dict(REFUSED[case])).pop("said"), None
    if case == "float32":
        qkv = [x.float() for x in qkv]
    if case == "not contiguous":
        qkv[1] = qkv[1].transpose(1, 2).contiguous().transpose(1, 2)
    if "atten_mask" in more:
        more["atten_mask"] = more["atten_mask"].npu()
    with pytest.raises(RuntimeError, match=said):
        run(torch_npu, *qkv, **more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"block_size": 8}, "multiple of 16"),
        ({"block_size": PAGE, "actual_seq_lengths_kv": None}, "one for each row"),
        ({"block_size": PAGE, "actual_seq_lengths_kv": [40, 1, 1]}, "rows of 3"),
    ],
)
def test_pages_that_the_chip_refuses(torch_npu: ModuleType, more: dict[str, Any], said: str):
    pages = draw(6, PAGE, G * D)
    table = torch.zeros(B, 2, dtype=torch.int32).npu()
    with pytest.raises(RuntimeError, match=said):
        run(torch_npu, draw(B, 1, N, D), pages, pages, block_table=table, **more)


def test_several_queries_a_row_are_not_covered(torch_npu: ModuleType, qkv: list[Tensor]):
    with pytest.raises(NotImplementedError, match="one query a row"):
        run(torch_npu, draw(B, 2, N, D), *qkv[1:])
