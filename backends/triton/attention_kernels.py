"""The programs of flash attention. Shapes: M queries and N keys of a tile, H head_dim padded to a power of
two.

Queries, keys and values are tokens of all segments in a row, (tokens, heads, head_dim). A query's row i of a
segment stands at position i + offset and sees the keys that ``_visible`` says. Exponentials are taken to base
2, which the hardware computes: peaks are logits times log2(e), log-sum-exps are natural. The backward pass
takes a query's peak and total, since their log-sum-exp would round away what is small beside a large logit.

Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
"""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def forward_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, sink_ptr: tl.tensor,
    out_ptr: tl.tensor, lse_ptr: tl.tensor, peaks_ptr: tl.tensor, totals_ptr: tl.tensor,
    bounds_q_ptr: tl.tensor, bounds_k_ptr: tl.tensor,
    q_token: tl.tensor, q_head: tl.tensor, k_token: tl.tensor, k_head: tl.tensor,
    v_token: tl.tensor, v_head: tl.tensor,
    num_heads: int, head_dim: int, scale: float, window: int,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr, TO_END: tl.constexpr, WINDOW: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, H: tl.constexpr,
) -> None:  # fmt: skip
    """One head of M queries: online softmax over the keys that any of them sees."""
    # In 64 bits: where heads lie before tokens, one begins far behind another.
    head = tl.program_id(2).to(tl.int64)
    start_q, len_q = _segment(bounds_q_ptr)
    start_k, len_k = _segment(bounds_k_ptr)
    if tl.program_id(0) * M >= len_q:
        return
    offset = len_k - len_q if TO_END else 0
    rows = tl.program_id(0) * M + tl.arange(0, M)
    dims = tl.arange(0, H)
    q = _load_rows(q_ptr + head * q_head, start_q, rows, len_q, q_token, dims, head_dim)
    k_ptr += (head // GROUP) * k_head
    v_ptr += (head // GROUP) * v_head
    peak = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    mixed = tl.zeros((M, H), tl.float32)
    low, high = _keys_seen(tl.program_id(0) * M, M, offset, len_q, len_k, window, CAUSAL, WINDOW)
    for start in range(low, high, N):
        columns = start + tl.arange(0, N)
        k = _load_rows(k_ptr, start_k, columns, len_k, k_token, dims, head_dim)
        visible = _visible(rows, columns, offset, len_q, len_k, window, CAUSAL, WINDOW)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2_E)
        logits = tl.where(visible, logits, float("-inf"))
        higher = tl.maximum(peak, tl.max(logits, axis=1))
        # A query that has seen nothing yet keeps zeros: exp(-inf - 0) where exp(-inf + inf) would be nan.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(logits - base[:, None])
        shrink = tl.exp2(peak - base)
        v = _load_rows(v_ptr, start_k, columns, len_k, v_token, dims, head_dim)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, axis=1)
        peak = higher
    if sink_ptr is not None:
        sink = tl.load(sink_ptr + head).to(tl.float32) * LOG2_E
        higher = tl.maximum(peak, sink)
        shrink = tl.exp2(peak - higher)
        mixed *= shrink[:, None]
        total = total * shrink + tl.exp2(sink - higher)
        peak = higher
    blind = total == 0.0
    peak = tl.where(blind, 0.0, peak)
    total = tl.where(blind, 1.0, total)
    mixed = mixed / total[:, None]
    lse = tl.where(blind, float("-inf"), (peak + tl.log2(total)) * LN_2)
    places = (start_q + rows) * num_heads + head
    tl.store(lse_ptr + places, lse, mask=rows < len_q)
    tl.store(peaks_ptr + places, peak, mask=rows < len_q)
    tl.store(totals_ptr + places, total, mask=rows < len_q)
    inside = (rows < len_q)[:, None] & (dims < head_dim)[None, :]
    at = places[:, None] * head_dim + dims[None, :]
    tl.store(out_ptr + at, mixed.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def query_gradient_kernel(
    grad_ptr: tl.tensor, q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor,
    peaks_ptr: tl.tensor, totals_ptr: tl.tensor, grad_lse_ptr: tl.tensor,
    delta_ptr: tl.tensor, grad_q_ptr: tl.tensor,
    bounds_q_ptr: tl.tensor, bounds_k_ptr: tl.tensor,
    q_token: tl.tensor, q_head: tl.tensor, k_token: tl.tensor, k_head: tl.tensor,
    v_token: tl.tensor, v_head: tl.tensor,
    num_heads: int, head_dim: int, scale: float, window: int,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr, TO_END: tl.constexpr, WINDOW: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, H: tl.constexpr,
) -> None:  # fmt: skip
    """One head of M queries: their gradient, over the keys that they see.

    d logits = weights * (d weights - delta), where delta = sum(weights * d weights) - d lse is one number a
    query. Equal to sum(d out * out) - d lse, it is summed over the keys all the same: the output was rounded,
    and where one weight is nearly 1 what is left of d weights - delta would be that rounding.
    """
    # In 64 bits: where heads lie before tokens, one begins far behind another.
    head = tl.program_id(2).to(tl.int64)
    start_q, len_q = _segment(bounds_q_ptr)
    start_k, len_k = _segment(bounds_k_ptr)
    if tl.program_id(0) * M >= len_q:
        return
    offset = len_k - len_q if TO_END else 0
    rows = tl.program_id(0) * M + tl.arange(0, M)
    dims = tl.arange(0, H)
    q = _load_rows(q_ptr + head * q_head, start_q, rows, len_q, q_token, dims, head_dim)
    token = num_heads * head_dim
    grad = _load_rows(grad_ptr + head * head_dim, start_q, rows, len_q, token, dims, head_dim)
    places = (start_q + rows) * num_heads + head
    peak, total = _load_statistics(peaks_ptr, totals_ptr, places, rows < len_q)
    k_ptr += (head // GROUP) * k_head
    v_ptr += (head // GROUP) * v_head
    low, high = _keys_seen(tl.program_id(0) * M, M, offset, len_q, len_k, window, CAUSAL, WINDOW)
    delta = -tl.load(grad_lse_ptr + places, mask=rows < len_q, other=0.0)
    for start in range(low, high, N):
        columns = start + tl.arange(0, N)
        k = _load_rows(k_ptr, start_k, columns, len_k, k_token, dims, head_dim)
        v = _load_rows(v_ptr, start_k, columns, len_k, v_token, dims, head_dim)
        visible = _visible(rows, columns, offset, len_q, len_k, window, CAUSAL, WINDOW)
        weights, grad_weights = _weights(q, k, v, grad, peak, total, visible, scale)
        delta += tl.sum(weights * grad_weights, axis=1)
    tl.store(delta_ptr + places, delta, mask=rows < len_q)
    grad_q = tl.zeros((M, H), tl.float32)
    for start in range(low, high, N):
        columns = start + tl.arange(0, N)
        k = _load_rows(k_ptr, start_k, columns, len_k, k_token, dims, head_dim)
        v = _load_rows(v_ptr, start_k, columns, len_k, v_token, dims, head_dim)
        visible = _visible(rows, columns, offset, len_q, len_k, window, CAUSAL, WINDOW)
        weights, grad_weights = _weights(q, k, v, grad, peak, total, visible, scale)
        slope = weights * (grad_weights - delta[:, None])
        grad_q += tl.dot(slope.to(k.dtype), k, input_precision="ieee")
    inside = (rows < len_q)[:, None] & (dims < head_dim)[None, :]
    at = places[:, None] * head_dim + dims[None, :]
    tl.store(grad_q_ptr + at, (grad_q * scale).to(grad_q_ptr.dtype.element_ty), mask=inside)


@triton.jit
def key_gradient_kernel(
    grad_ptr: tl.tensor, q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor,
    peaks_ptr: tl.tensor, totals_ptr: tl.tensor, delta_ptr: tl.tensor, grad_k_ptr: tl.tensor, grad_v_ptr:
    tl.tensor, bounds_q_ptr: tl.tensor, bounds_k_ptr: tl.tensor,
    q_token: tl.tensor, q_head: tl.tensor, k_token: tl.tensor, k_head: tl.tensor,
    v_token: tl.tensor, v_head: tl.tensor,
    num_heads: int, head_dim: int, scale: float, window: int,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr, TO_END: tl.constexpr, WINDOW: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, H: tl.constexpr,
) -> None:  # fmt: skip
    """One head of N keys: gradients of keys and values, over the queries of all its heads that see them."""
    kv_head = tl.program_id(2).to(tl.int64)
    start_q, len_q = _segment(bounds_q_ptr)
    start_k, len_k = _segment(bounds_k_ptr)
    if tl.program_id(0) * N >= len_k:
        return
    offset = len_k - len_q if TO_END else 0
    columns = tl.program_id(0) * N + tl.arange(0, N)
    dims = tl.arange(0, H)
    k = _load_rows(k_ptr + kv_head * k_head, start_k, columns, len_k, k_token, dims, head_dim)
    v = _load_rows(v_ptr + kv_head * v_head, start_k, columns, len_k, v_token, dims, head_dim)
    grad_k = tl.zeros((N, H), tl.float32)
    grad_v = tl.zeros((N, H), tl.float32)
    low, high = _queries_seeing(tl.program_id(0) * N, N, offset, len_q, window, CAUSAL, WINDOW)
    token = num_heads * head_dim
    for head in range(kv_head * GROUP, kv_head * GROUP + GROUP):
        for start in range(low, high, M):
            rows = start + tl.arange(0, M)
            q = _load_rows(q_ptr + head * q_head, start_q, rows, len_q, q_token, dims, head_dim)
            grad = _load_rows(grad_ptr + head * head_dim, start_q, rows, len_q, token, dims, head_dim)
            places = (start_q + rows) * num_heads + head
            peak, total = _load_statistics(peaks_ptr, totals_ptr, places, rows < len_q)
            delta = tl.load(delta_ptr + places, mask=rows < len_q, other=0.0)
            visible = _visible(rows, columns, offset, len_q, len_k, window, CAUSAL, WINDOW)
            weights, grad_weights = _weights(q, k, v, grad, peak, total, visible, scale)
            slope = weights * (grad_weights - delta[:, None])
            grad_v += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision="ieee")
            grad_k += tl.dot(tl.trans(slope.to(q.dtype)), q, input_precision="ieee")
    inside = (columns < len_k)[:, None] & (dims < head_dim)[None, :]
    num_kv_heads = num_heads // GROUP
    at = ((start_k + columns) * num_kv_heads + kv_head)[:, None] * head_dim + dims[None, :]
    tl.store(grad_k_ptr + at, (grad_k * scale).to(grad_k_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_v_ptr + at, grad_v.to(grad_v_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _segment(bounds_ptr: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return where this program's segment starts, in 64 bits, and its length, in 32."""
    start = tl.load(bounds_ptr + tl.program_id(1))
    return start, (tl.load(bounds_ptr + tl.program_id(1) + 1) - start).to(tl.int32)


@triton.jit
def _load_rows(
    x_ptr: tl.tensor,
    start: tl.tensor,
    rows: tl.tensor,
    length: tl.tensor,
    token_stride: tl.tensor,
    dims: tl.tensor,
    head_dim: int,
) -> tl.tensor:
    """Load rows of a segment, zeros beyond its end and beyond the head_dim."""
    at = (start + rows)[:, None] * token_stride + dims[None, :]
    return tl.load(x_ptr + at, mask=(rows < length)[:, None] & (dims < head_dim)[None, :], other=0.0)


@triton.jit
def _load_statistics(
    peaks_ptr: tl.tensor, totals_ptr: tl.tensor, places: tl.tensor, inside: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    peak = tl.load(peaks_ptr + places, mask=inside, other=0.0)
    return peak, tl.load(totals_ptr + places, mask=inside, other=1.0)


@triton.jit
def _weights(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    grad: tl.tensor,
    peak: tl.tensor,
    total: tl.tensor,
    visible: tl.tensor,
    scale: float,
) -> tuple[tl.tensor, tl.tensor]:
    """Return the softmax's weights and their gradients, (M, N)."""
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2_E)
    weights = tl.exp2(tl.where(visible, logits - peak[:, None], float("-inf"))) / total[:, None]
    return weights, tl.dot(grad, tl.trans(v), input_precision="ieee")


@triton.jit
def _visible(
    rows: tl.tensor,
    columns: tl.tensor,
    offset: tl.tensor,
    len_q: tl.tensor,
    len_k: tl.tensor,
    window: int,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
) -> tl.tensor:
    """Return which keys each query sees, (M, N)."""
    distance = (rows + offset)[:, None] - columns[None, :]
    visible = (rows < len_q)[:, None] & (columns < len_k)[None, :]
    if CAUSAL:
        visible = visible & (distance >= 0)
    if WINDOW:
        visible = visible & (distance < window) & (distance > -window)
    return visible


@triton.jit
def _keys_seen(
    first_row: tl.tensor,
    M: tl.constexpr,
    offset: tl.tensor,
    len_q: tl.tensor,
    len_k: tl.tensor,
    window: int,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return the range of keys outside which no query of the tile sees any."""
    first = first_row + offset
    last = tl.minimum(first_row + M, len_q) - 1 + offset
    low = len_k * 0
    high = len_k
    if WINDOW:
        low = tl.maximum(first - window + 1, 0)
        high = tl.minimum(len_k, last + window)
    if CAUSAL:
        high = tl.minimum(high, last + 1)
    return low, high


@triton.jit
def _queries_seeing(
    first_column: tl.tensor,
    N: tl.constexpr,
    offset: tl.tensor,
    len_q: tl.tensor,
    window: int,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return the range of queries outside which none sees any key of the tile."""
    first = first_column - offset
    low = len_q * 0
    high = len_q
    if WINDOW:
        low = tl.maximum(first - window + 1, 0)
        high = tl.minimum(len_q, first + N - 1 + window)
    if CAUSAL:
        low = tl.maximum(low, first)
    return low, high
