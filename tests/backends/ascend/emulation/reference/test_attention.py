"""npu_fusion_attention against softmax(mask(scale * q k)) v in float64."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check, close

pytestmark = pytest.mark.ascend_emulation

B, N, G, S, K, D = 2, 4, 2, 5, 7, 8
LAYOUTS = {"BNSD": (0, 1, 2, 3), "BSND": (0, 2, 1, 3), "BSH": (0, 2, 1, 3), "SBH": (2, 0, 1, 3)}


def to_layout(x_BNSD: Tensor, layout: str) -> Tensor:
    x = x_BNSD.permute(LAYOUTS[layout])
    return (x.flatten(2) if layout in ("BSH", "SBH") else x).contiguous()


def from_layout(x: Tensor, layout: str, heads: int) -> Tensor:
    x = x.unflatten(2, (heads, -1)) if layout in ("BSH", "SBH") else x
    order = LAYOUTS[layout]
    return x.permute([order.index(dim) for dim in range(4)])


def plain(q: Tensor, k: Tensor, v: Tensor, forbidden: Tensor | None, scale: float) -> Tensor:
    """Shapes: q (B, N, S, D), k and v (B, G, K, D)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = scale * q @ k.mT
    if forbidden is not None:
        scores = scores.masked_fill(forbidden, -torch.inf)
    return scores.softmax(-1) @ v


def qkv(num_queries: int = S, num_keys: int = K, groups: int = G) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(B, heads, size, D)
        for heads, size in ((N, num_queries), (groups, num_keys), (groups, num_keys))
    ]


def compressed(torch_npu: ModuleType) -> Tensor:
    return torch.ones(2048, 2048, dtype=torch.bool, device="npu").triu(1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_layouts_and_grouped_heads(torch_npu: ModuleType, layout: str, groups: int) -> None:
    def fused(*inputs: Tensor) -> Tensor:
        q, k, v = (to_layout(x, layout) for x in inputs)
        out = torch_npu.npu_fusion_attention(q, k, v, N, layout, scale=0.3)[0]
        return from_layout(out, layout, N)

    check(fused, lambda q, k, v: plain(q, k, v, None, 0.3), *qkv(groups=groups))


def distances(num_queries: int, num_keys: int) -> Tensor:
    return torch.arange(num_keys) - torch.arange(num_queries)[:, None]


@pytest.mark.parametrize("shape", [(5, 7), (6, 6)])
@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [(2, 9, 9), (3, 9, 9), (4, 2, 1), (4, 3, 0)],
    ids=["left-up", "right-down", "band", "b0"],
)
def test_sparse_modes_read_a_compressed_mask(
    torch_npu: ModuleType, mode: int, before: int, after: int, shape: tuple[int, int]
) -> None:
    offset = shape[1] - shape[0]
    distance = distances(*shape)
    forbidden = {
        2: distance > 0,
        3: distance > offset,
        4: (distance > after + offset) | (distance < offset - before),
    }[mode]

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch_npu.npu_fusion_attention(
            q,
            k,
            v,
            N,
            "BNSD",
            atten_mask=compressed(torch_npu),
            sparse_mode=mode,
            pre_tockens=before,
            next_tockens=after,
        )[0]

    check(fused, lambda q, k, v: plain(q, k, v, forbidden, 1.0), *qkv(*shape))


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("form", [(S, K), (1, 1, S, K), (B, 1, S, K), (B, N, S, K)])
def test_full_masks_forbid_where_true(torch_npu: ModuleType, form: tuple[int, ...], mode: int) -> None:
    mask = torch.rand(form, generator=torch.Generator().manual_seed(1)) > 0.6
    mask[..., 0] = False
    check(
        lambda q, k, v: torch_npu.npu_fusion_attention(
            q, k, v, N, "BNSD", atten_mask=mask.npu(), sparse_mode=mode
        )[0],
        lambda q, k, v: plain(q, k, v, mask, 1.0),
        *qkv(),
    )


def test_a_prefix_stays_visible(torch_npu: ModuleType) -> None:
    prefix = [4, 3]
    mask = torch.cat((compressed(torch_npu).cpu(), torch.ones(1024, 2048, dtype=torch.bool)))
    forbidden = torch.stack([(distances(S, K) > K - S) & (torch.arange(K) >= size) for size in prefix])[
        :, None
    ]
    check(
        lambda q, k, v: torch_npu.npu_fusion_attention(
            q, k, v, N, "BNSD", atten_mask=mask.npu(), sparse_mode=6, prefix=prefix
        )[0],
        lambda q, k, v: plain(q, k, v, forbidden, 1.0),
        *qkv(),
    )


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences(torch_npu: ModuleType, causal: bool, version: int) -> None:
    torch.manual_seed(0)
    query_lengths, key_lengths = [3, 1, 4], [3, 2, 5]
    inputs = [
        torch.randn(sum(sizes), heads, D)
        for heads, sizes in ((N, query_lengths), (G, key_lengths), (G, key_lengths))
    ]
    ends = [torch.tensor(sizes).cumsum(0).tolist() for sizes in (query_lengths, key_lengths)]
    op = getattr(torch.ops.npu, "npu_fusion_attention" + ("" if version == 1 else f"_v{version}"))
    given = [torch.tensor(x) for x in ends] if version == 3 else ends

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = compressed(torch_npu) if causal else None
        return op(
            q,
            k,
            v,
            N,
            "TND",
            atten_mask=mask,
            sparse_mode=3,
            scale=0.5,
            actual_seq_qlen=given[0],
            actual_seq_kvlen=given[1],
        )[0]

    def one_by_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outputs = []
        for qs, ks, vs in zip(
            q.split(query_lengths), k.split(key_lengths), v.split(key_lengths), strict=True
        ):
            forbidden = distances(len(qs), len(ks)) > len(ks) - len(qs) if causal else None
            outputs.append(
                plain(*(x.transpose(0, 1)[None] for x in (qs, ks, vs)), forbidden, 0.5)[0].transpose(0, 1)
            )
        return torch.cat(outputs)

    check(fused, one_by_one, *inputs)


def test_row_statistics(torch_npu: ModuleType) -> None:
    q, k, v = qkv()
    _, maximum, total, *_ = torch_npu.npu_fusion_attention(q.npu(), k.npu(), v.npu(), N, "BNSD", scale=0.5)
    scores = 0.5 * q.double() @ k.double().repeat_interleave(N // G, 1).mT
    expected = scores.amax(-1, keepdim=True)
    close(maximum, expected.expand(B, N, S, 8), 1e-6, "softmax_max")
    close(total, (scores - expected).exp().sum(-1, keepdim=True).expand(B, N, S, 8), 1e-6, "softmax_sum")


def test_packed_statistics_lie_by_sequence_and_head(torch_npu: ModuleType) -> None:
    """As context-parallel code unpacks them: each sequence is a block of (heads, tokens)."""
    torch.manual_seed(0)
    x = torch.randn(5, N, D)
    call = {"actual_seq_qlen": [2, 5], "actual_seq_kvlen": [2, 5]}
    default = torch_npu.npu_fusion_attention(x.npu(), x.npu(), x.npu(), N, "TND", **call)[1].cpu()
    by_token = torch_npu.npu_fusion_attention(
        x.npu(), x.npu(), x.npu(), N, "TND", softmax_layout="TND", **call
    )[1].cpu()
    blocks = default.reshape(-1, 8).split([2 * N, 3 * N])
    assert torch.equal(torch.cat([block.view(N, -1, 8).transpose(0, 1) for block in blocks]), by_token)


def test_gradient_takes_statistics_of_more_keys(torch_npu: ModuleType) -> None:
    """Ring attention: the parts of the keys are used one after another with the statistics of all of them."""
    q, k, v = (x.npu() for x in qkv(groups=N))
    dy = torch.randn(B, N, S, D, device="npu")
    out, maximum, total, *_ = torch_npu.npu_fusion_attention(q, k, v, N, "BNSD")
    saved = {"softmax_max": maximum, "softmax_sum": total, "attention_in": out}
    whole = torch_npu.npu_fusion_attention_grad(q, k, v, dy, N, "BNSD", **saved)
    parts = [
        torch_npu.npu_fusion_attention_grad(q, k[:, :, keys], v[:, :, keys], dy, N, "BNSD", **saved)
        for keys in (slice(0, 3), slice(3, K))
    ]
    close(parts[0][0] + parts[1][0], whole[0].cpu(), 1e-6, "query")
    for index in (1, 2):
        close(torch.cat((parts[0][index], parts[1][index]), 2), whole[index].cpu(), 1e-6, "key or value")


@pytest.mark.parametrize("pse_type", [0, 1])
def test_position_bias(torch_npu: ModuleType, pse_type: int) -> None:
    bias = torch.randn(1, N, S, K)

    def plain_with_bias(q: Tensor, k: Tensor, v: Tensor, pse: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(N // G, 1) for x in (k, v))
        scores = q @ k.mT
        scores = (scores + pse) * 0.5 if pse_type else scores * 0.5 + pse
        return scores.softmax(-1) @ v

    check(
        lambda q, k, v, pse: torch_npu.npu_fusion_attention_v2(
            q, k, v, N, "BNSD", pse=pse, scale=0.5, pse_type=pse_type
        )[0],
        plain_with_bias,
        *qkv(),
        bias,
    )


def test_dropout_is_drawn_again_for_the_gradient(torch_npu: ModuleType) -> None:
    q, k, v = (x.npu().requires_grad_() for x in qkv(8, 64, N))
    torch.manual_seed(3)
    out = torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", keep_prob=0.7)[0]
    torch.manual_seed(3)
    again = torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", keep_prob=0.7)[0]
    other = torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", keep_prob=0.7)[0]
    assert torch.equal(out, again)
    assert not torch.equal(out, other)
    out.sum().backward()
    # The output is linear in v with the dropped weights: <dv, v> must be the sum of the output.
    assert (v.grad * v).sum().item() == pytest.approx(out.sum().item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(torch_npu: ModuleType, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in qkv()]
    check(
        lambda q, k, v: torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", scale=0.35)[0],
        lambda q, k, v: plain(q, k, v, None, 0.35),
        *inputs,
        rtol=2e-2 if dtype is torch.bfloat16 else 2e-3,
    )


def test_a_wholly_masked_row_is_zero(torch_npu: ModuleType) -> None:
    mask = torch.zeros(S, K, dtype=torch.bool)
    mask[2] = True
    q, k, v = (x.npu().requires_grad_() for x in qkv())
    out = torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", atten_mask=mask.npu(), sparse_mode=1)[0]
    out.sum().backward()
    assert torch.equal(out[:, :, 2].cpu(), torch.zeros(B, N, D))
    assert all(bool(x.grad.isfinite().all()) for x in (q, k, v))


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
@pytest.mark.parametrize("gradient", [True, False])
def test_scaled_dot_product_attention(torch_npu: ModuleType, kind: str, gradient: bool) -> None:
    """torch's own function, which torch_npu sends to the fused kernel or composes, by its own rules."""
    mask = torch.rand(S, S) > 0.3
    mask[:, 0] = True
    mask = {"bool": mask, "float": torch.randn(S, S)}.get(kind)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        given = None if mask is None else mask.to(q.device, q.dtype if mask.is_floating_point() else None)
        return F.scaled_dot_product_attention(q, k, v, given, is_causal=kind == "causal")

    check(attend, attend, *qkv(S, S, N), gradient=gradient)


REJECTED = {
    "mask-shape": ({"sparse_mode": 3, "atten_mask": lambda: torch.ones(S, K, dtype=torch.bool)}, "2048"),
    "mask-content": (
        {"sparse_mode": 3, "atten_mask": lambda: torch.zeros(2048, 2048, dtype=torch.bool)},
        "above the diagonal",
    ),
    "mask-dtype": ({"atten_mask": lambda: torch.zeros(S, K)}, "bool or uint8"),
    "band": ({"atten_mask": lambda: torch.zeros(S, K, dtype=torch.bool), "next_tockens": 0}, "next_tockens"),
    "mode": ({"sparse_mode": 11}, "no sparse_mode=11"),
    "heads": ({"head_num": 3}, "head_num=3"),
    "layout": ({"input_layout": "BDNS"}, "input_layout=BDNS"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_the_chip_would_get_wrong_raises(torch_npu: ModuleType, case: str) -> None:
    changes, message = REJECTED[case]
    arguments = {"head_num": N, "input_layout": "BNSD", "scale": 1 / math.sqrt(D)}
    arguments |= {key: value().npu() if callable(value) else value for key, value in changes.items()}
    q, k, v = (x.npu() for x in qkv())
    with pytest.raises(RuntimeError, match=message):
        torch_npu.npu_fusion_attention(q, k, v, **arguments)


def test_without_a_mask_the_sparse_mode_is_ignored(torch_npu: ModuleType) -> None:
    """A classic mistake: sparse_mode=3 alone is full attention."""
    q, k, v = (x.npu() for x in qkv())
    causal = torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", sparse_mode=3)[0]
    full = torch_npu.npu_fusion_attention(q, k, v, N, "BNSD")[0]
    assert torch.equal(causal, full)


def test_unknown_keywords_fail_as_on_the_chip(torch_npu: ModuleType) -> None:
    q, k, v = (x.npu() for x in qkv())
    with pytest.raises((TypeError, RuntimeError), match="pre_tokens"):
        torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", pre_tokens=3)  # version 1 spells it pre_tockens


@pytest.mark.parametrize("layout", ["BNSD", "TND"])
@pytest.mark.parametrize("version", ["", "_v2", "_v3"])
def test_a_sink_joins_the_denominator(torch_npu: ModuleType, version: str, layout: str) -> None:
    """As the documentation's example has it: one more score of every query, dropped before the values."""
    sink = torch.linspace(-1, 2, N)
    attend = getattr(torch_npu, f"npu_fusion_attention{version}")
    ends = [K, 2 * K]  # B packed sequences

    def fused(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        if layout == "BNSD":
            return attend(q, k, v, N, layout, scale=0.5, sink=sink)[0]
        given = torch.tensor(ends, device=q.device) if version == "_v3" else ends
        packed = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
        out = attend(*packed, N, layout, scale=0.5, sink=sink, actual_seq_qlen=given, actual_seq_kvlen=given)[
            0
        ]
        return out.unflatten(0, (2, K)).transpose(1, 2)

    def with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(N // G, 1) for x in (k, v))
        scores = torch.cat((q @ k.mT * 0.5, sink[:, None, None].expand(*q.shape[:3], 1)), -1)
        return scores.softmax(-1)[..., :-1] @ v

    check(fused, with_sink, *qkv(K, K), sink)


def test_a_sink_in_another_format_is_refused(torch_npu: ModuleType) -> None:
    q, k, v = (x.npu() for x in qkv())
    with pytest.raises(RuntimeError, match="in float32"):
        torch_npu.npu_fusion_attention(q, k, v, N, "BNSD", sink=torch.zeros(N).half().npu())
