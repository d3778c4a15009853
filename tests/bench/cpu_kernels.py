"""Compare the CPU's kernel rows with other ways to compute the same. Run: python tests/bench/cpu_kernels.py

Thread time, one thread, the best of several: what backends/cpu/README.md quotes.
"""

import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.cpu.kernel.attention import attention, decode_attention
from backends.cpu.kernel.log_prob import token_log_probs as kept_log_probs
from portable.kernel.reference import decode
from portable.kernel.reference.log_prob import token_log_probs

HEADS, KV_HEADS, HEAD_DIM = 8, 4, 32


def loop(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """One call a segment."""
    parts = zip(*(x[0].split(cu_seqlens.diff().tolist()) for x in (q, k, v)), strict=True)
    return torch.cat([sdpa(*(x[None] for x in part))[0] for part in parts])


def padded(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """One call, every segment padded to the longest."""
    lengths = cu_seqlens.diff()
    place = torch.arange(int(lengths.max()))
    index = torch.where(place < lengths[:, None], cu_seqlens[:-1, None] + place, q.shape[1]).long()
    out = sdpa(*(F.pad(x[0], (0, 0, 0, 0, 0, 1))[index] for x in (q, k, v)))
    return out[index < q.shape[1]]


def masked(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """One call over everything with a block mask."""
    segment = torch.arange(len(cu_seqlens) - 1).repeat_interleave(cu_seqlens.diff().long())
    allowed = (segment[:, None] == segment).tril()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=True).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def measure(title: str, function: Callable[[], Tensor], repeats: int = 5, backward: bool = True) -> None:
    times: list[tuple[float, float]] = []
    for _ in range(repeats):
        start = time.thread_time()
        out = function()
        middle = time.thread_time()
        if backward:
            out.sum().backward()
        times.append((middle - start, time.thread_time() - middle))
    forward_ms, backward_ms = (1e3 * min(column) for column in zip(*times, strict=True))
    print(f"{title:55} forward {forward_ms:8.2f} ms   backward {backward_ms:8.2f} ms", flush=True)


def bench_attention(title: str, lengths: Sequence[int]) -> None:
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    heads = (HEADS, KV_HEADS, KV_HEADS)
    q, k, v = (torch.randn(1, sum(lengths), count, HEAD_DIM, requires_grad=True) for count in heads)
    measure(f"{title}: row", lambda: attention(q, k, v, cu_seqlens=cu_seqlens))
    measure(f"{title}: loop", lambda: loop(q, k, v, cu_seqlens))
    measure(f"{title}: padded", lambda: padded(q, k, v, cu_seqlens))
    measure(f"{title}: block mask", lambda: masked(q, k, v, cu_seqlens), repeats=2)


def bench_decode(rows: int, length: int) -> None:
    q = torch.randn(rows, HEADS, HEAD_DIM)
    k, v = torch.randn(2, rows, 512, KV_HEADS, HEAD_DIM)
    lengths = torch.randint(length // 2, length, (rows,))
    title = f"decode {rows} rows of up to {length} tokens"
    measure(f"{title}: row", lambda: decode_attention(q, k, v, lengths), backward=False)
    measure(f"{title}: reference", lambda: decode.decode_attention(q, k, v, lengths), backward=False)


def bench_log_probs(tokens: int = 2048, hidden: int = 192, vocab: int = 4096) -> None:
    x = torch.randn(tokens, hidden, requires_grad=True)
    weight = (torch.randn(vocab, hidden) * 0.02).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,))
    measure("log-probs: row", lambda: kept_log_probs(x, weight, targets))
    measure("log-probs: reference, computed twice", lambda: token_log_probs(x, weight, targets))
    measure(
        "log-probs: one large softmax",
        lambda: -F.cross_entropy(F.linear(x, weight), targets, reduction="none"),
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cuts = [0, *sorted(torch.randperm(4095)[:49].add(1).tolist()), 4096]
    bench_attention("50 uneven segments, 4096 tokens", [b - a for a, b in itertools.pairwise(cuts)])
    bench_attention("256 segments of 14 to 18 tokens", torch.randint(14, 19, (256,)).tolist())
    bench_attention("200 segments of 10 to 29 tokens", torch.randint(10, 30, (200,)).tolist())
    bench_attention("16 segments of 256 tokens", [256] * 16)
    bench_decode(64, 32)
    bench_decode(64, 256)
    bench_decode(512, 32)
    bench_log_probs()


if __name__ == "__main__":
    main()
