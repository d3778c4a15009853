"""Mixture of experts: choosing experts, ordering rows by expert, and putting them back.

Shapes: N tokens, K experts a token, E experts, H hidden_size, M = N * K rows in the order of their experts.
Source: torch_npu 2.13.0's documentation of the operators.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.ascend.emulation.reference.registry import NotEmulated, Rejected, cover_only, reference

_MAX_CHOICES = 1024
_MIN_GROUP, _MAX_EXPERTS = 2, 2048


@reference("npu::npu_moe_gating_top_k_softmax")
def npu_moe_gating_top_k_softmax(
    x: Tensor, finished: Tensor | None = None, k: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest of softmax(x), their experts, and the number of each (row, choice)."""
    op = "npu_moe_gating_top_k_softmax"
    cover_only(op, finished=finished)
    _check_gate(op, x, (2, 3), k, _MAX_CHOICES)
    values, experts = _largest(x.float().softmax(-1), k)
    num_rows = experts.numel() // k
    # Choices of one rank lie together: row r, choice c has number c * rows + r.
    row_idx = torch.arange(num_rows * k, dtype=torch.int32, device=x.device).view(k, num_rows).T
    return values.to(x.dtype), experts.int(), row_idx.reshape(experts.shape).contiguous()


@reference("npu::npu_moe_gating_top_k_softmax_v2")
def npu_moe_gating_top_k_softmax_v2(
    x: Tensor,
    *,
    k: int = 1,
    finished: Tensor | None = None,
    renorm: int | None = 0,
    output_softmax: bool | None = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest of softmax(x), their experts, and on request softmax(x).

    With ``renorm`` the first is the softmax of the k largest of x.
    """
    op = "npu_moe_gating_top_k_softmax_v2"
    cover_only(op, finished=finished)
    _check_gate(op, x, (2, 3), k, _MAX_CHOICES)
    if renorm not in (None, 0, 1):
        raise Rejected(f"{op}: renorm={renorm}; use 0 or 1")
    probabilities = x.float().softmax(-1)
    if renorm:
        values, experts = _largest(x.float(), k)
        values = values.softmax(-1)
    else:
        values, experts = _largest(probabilities, k)
    shown = probabilities if output_softmax and not renorm else probabilities.new_empty(0)
    return values.to(x.dtype), experts.int(), shown


@reference("npu::npu_moe_gating_top_k")
def npu_moe_gating_top_k(
    x: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    input_ids: Tensor | None = None,
    tid2eid: Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of the k experts with the largest norm(x) + bias, the experts, and norm(x) on
    request.

    The norm is sigmoid (``norm_type`` 1) or softmax (0). Weights are norm(x) of the chosen, for sigmoid as
    shares of their sum, times ``routed_scaling_factor``.
    """
    op = "npu_moe_gating_top_k"
    cover_only(op, input_ids=input_ids, tid2eid=tid2eid)
    if (k_group, group_count) != (1, 1):
        raise NotEmulated(f"{op}: the emulator covers one group of experts")
    if renorm or norm_type not in (0, 1):
        raise Rejected(f"{op}: renorm={renorm}, norm_type={norm_type}; use renorm 0 and norm_type 0 or 1")
    _check_gate(op, x, (2,), k, x.shape[-1])
    if not _MIN_GROUP < x.shape[-1] <= _MAX_EXPERTS:
        raise Rejected(f"{op}: {x.shape[-1]} experts; a group needs more than 2, and all 2048 or fewer")
    if bias is not None and (bias.dtype != x.dtype or bias.shape != x.shape[-1:]):
        raise Rejected(f"{op}: bias must be (experts,) in the number format of x")
    norm = x.float().sigmoid() if norm_type else x.float().softmax(-1)
    _, experts = _largest(norm if bias is None else norm + bias.float(), k)
    weights = norm.gather(-1, experts)
    if norm_type:
        weights = weights / (weights.sum(-1, keepdim=True) + eps)
    weights = weights * routed_scaling_factor
    return weights.to(x.dtype), experts.int(), norm if out_flag else norm.new_empty(0)


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row and where they are; of equal ones the first (an assumption)."""
    ordered, where = values.sort(dim=-1, descending=True, stable=True)
    return ordered[..., :k], where[..., :k]


def _check_gate(op: str, x: Tensor, ranks: tuple[int, ...], k: int, most: int) -> None:
    if x.dim() not in ranks or x.numel() == 0:
        raise Rejected(
            f"{op}: x {tuple(x.shape)} must have {' or '.join(map(str, ranks))} dims, none of them 0"
        )
    if not 0 < k <= min(x.shape[-1], most):
        raise Rejected(f"{op}: k={k} of {x.shape[-1]} experts; it takes 1 to that, and no more than {most}")


@reference("npu::npu_moe_compute_expert_tokens")
def npu_moe_compute_expert_tokens(sorted_expert_for_source_row: Tensor, num_expert: int) -> Tensor:
    """Return how many rows the experts 0..e have together, for every e."""
    experts = torch.arange(
        num_expert, dtype=sorted_expert_for_source_row.dtype, device=sorted_expert_for_source_row.device
    )
    counts = torch.searchsorted(sorted_expert_for_source_row.contiguous(), experts, right=True)
    return counts.to(sorted_expert_for_source_row.dtype)


@reference("npu::npu_moe_init_routing")
def npu_moe_init_routing(
    x: Tensor, row_idx: Tensor, expert_idx: Tensor, active_num: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows by expert (min(N, active_num) * K, H), where each went (N * K,), and the sorted experts."""
    num_rows, k = expert_idx.shape
    experts, order = expert_idx.flatten().sort(stable=True)
    sorted_rows = row_idx.flatten()[order].long()
    went = torch.empty_like(sorted_rows, dtype=torch.int32)
    went[sorted_rows] = torch.arange(sorted_rows.numel(), dtype=torch.int32, device=x.device)
    kept = min(num_rows, active_num) * k
    return x[sorted_rows[:kept] % num_rows], went, experts


@reference("npu::npu_moe_finalize_routing")
def npu_moe_finalize_routing(
    expanded_permuted_rows: Tensor,
    skip1: Tensor | None,
    skip2: Tensor | None,
    bias: Tensor | None,
    scales: Tensor | None,
    expanded_src_to_dst_row: Tensor,
    export_for_source_row: Tensor | None,
    drop_pad_mode: int | None = 0,
    k: int | None = 1,
) -> Tensor:
    """Return skip1 + skip2 + the scaled sum of the K rows (and their experts' biases) of each token."""
    op = "npu_moe_finalize_routing"
    if drop_pad_mode:
        raise NotEmulated(f"{op}: the emulator covers drop_pad_mode=0")
    if skip2 is not None and skip1 is None:
        raise Rejected(f"{op}: skip2 needs skip1")
    num_choices = scales.shape[1] if scales is not None else (k or 1)
    num_rows = expanded_src_to_dst_row.numel() // num_choices
    rows = expanded_permuted_rows.float()[expanded_src_to_dst_row.long()].view(num_choices, num_rows, -1)
    rows = rows.transpose(0, 1)  # choice c of row r is at c * rows + r
    if bias is not None:
        if export_for_source_row is None:
            raise Rejected(f"{op}: bias needs export_for_source_row, the expert of each choice")
        rows = rows + bias.float()[export_for_source_row.long()]
    if scales is not None:
        rows = rows * scales.float().unsqueeze(-1)
    out = rows.sum(1)
    for skip in (skip1, skip2):
        out = out if skip is None else out + skip.float()
    return out.to(expanded_permuted_rows.dtype)


def _num_out(num_out_tokens: int | None, num_rows: int) -> int:
    wanted = num_out_tokens or 0
    return min(wanted, num_rows) if wanted > 0 else num_rows + wanted


@reference("npu::npu_moe_token_permute")
def npu_moe_token_permute(
    tokens: Tensor, indices: Tensor, num_out_tokens: int | None = None, padded_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Return tokens in the order of their experts, and where row i * K + k went (int32)."""
    _no_padding("npu_moe_token_permute", padded_mode)
    flat = indices.flatten()
    k = flat.numel() // max(1, tokens.shape[0])
    order = flat.argsort(stable=True)
    went = torch.empty_like(order, dtype=torch.int32)
    went[order] = torch.arange(order.numel(), dtype=torch.int32, device=tokens.device)
    kept = order[: _num_out(num_out_tokens, order.numel())]
    return tokens[kept // max(1, k)], went


@reference("npu::npu_moe_token_permute_grad")
def npu_moe_token_permute_grad(
    tokens: Tensor,
    grad_permuted_tokens: Tensor,
    indices: Tensor,
    sorted_indices: Tensor,
    padded_mode: bool = False,
) -> Tensor:
    """Return the gradient of tokens."""
    k = 1 if indices.dim() == 1 else indices.shape[1]
    return npu_moe_token_permute_grad_v2(
        grad_permuted_tokens, sorted_indices, tokens.shape[0], tokens.dtype, k, padded_mode
    )


@reference("npu::npu_moe_token_permute_grad_v2")
def npu_moe_token_permute_grad_v2(
    grad_permuted_tokens: Tensor,
    sorted_indices: Tensor,
    tokens_size_0: int,
    tokens_dtype: torch.dtype,
    num_topK: int,
    padded_mode: bool = False,
) -> Tensor:
    """The same from sizes instead of tensors."""
    _no_padding("npu_moe_token_permute_grad", padded_mode)
    rows = _pick(grad_permuted_tokens.float(), sorted_indices)
    return rows.view(tokens_size_0, num_topK, -1).sum(1).to(tokens_dtype)


@reference("npu::npu_moe_token_unpermute")
def npu_moe_token_unpermute(
    permuted_tokens: Tensor,
    sorted_indices: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> Tensor:
    """Return, for every token, the sum of its K rows weighted by ``probs``; without them K is 1."""
    _no_padding("npu_moe_token_unpermute", padded_mode)
    k = 1 if probs is None else probs.shape[1]
    rows = _pick(permuted_tokens.float(), sorted_indices).view(-1, k, permuted_tokens.shape[1])
    if probs is not None:
        rows = rows * probs.float().unsqueeze(-1)
    return rows.sum(1).to(permuted_tokens.dtype)


@reference("npu::_npu_moe_token_unpermute")
def _npu_moe_token_unpermute(
    permuted_tokens: Tensor,
    sorted_indices: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The form that autograd calls: it also returns what the gradient needs."""
    out = npu_moe_token_unpermute(permuted_tokens, sorted_indices, probs, padded_mode, restore_shape)
    return out, permuted_tokens.clone()


@reference("npu::npu_moe_token_unpermute_grad")
def npu_moe_token_unpermute_grad(
    permuted_tokens: Tensor,
    grad_unpermuted_tokens: Tensor,
    sorted_indices: Tensor,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of permuted_tokens and probs."""
    return npu_moe_token_unpermute_grad_v2(
        grad_unpermuted_tokens,
        sorted_indices,
        permuted_tokens.shape[0],
        permuted_tokens.dtype,
        probs,
        padded_mode,
        restore_shape,
        permuted_tokens,
    )


@reference("npu::npu_moe_token_unpermute_grad_v2")
def npu_moe_token_unpermute_grad_v2(
    grad_unpermuted_tokens: Tensor,
    sorted_indices: Tensor,
    permuted_tokens_size_0: int,
    permuted_tokens_dtype: torch.dtype,
    probs: Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
    permuted_tokens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The same from sizes; the tokens are needed only for the gradient of probs."""
    _no_padding("npu_moe_token_unpermute_grad", padded_mode)
    grad = grad_unpermuted_tokens.float().unsqueeze(1)
    d_rows = grad if probs is None else grad * probs.float().unsqueeze(-1)
    d_rows = d_rows.flatten(0, 1)
    target = sorted_indices.long()
    kept = target < permuted_tokens_size_0
    d_permuted = d_rows.new_zeros(permuted_tokens_size_0, d_rows.shape[1])
    d_permuted[target[kept]] = d_rows[kept]
    d_probs = None
    if probs is not None:
        if permuted_tokens is None:
            raise Rejected("npu_moe_token_unpermute_grad_v2: the gradient of probs needs permuted_tokens")
        rows = _pick(permuted_tokens.float(), sorted_indices).view(*probs.shape, -1)
        d_probs = (rows * grad).sum(-1).to(probs.dtype)
    return d_permuted.to(permuted_tokens_dtype), d_probs


def _pick(rows: Tensor, where: Tensor) -> Tensor:
    """Return rows[where]; a row that was dropped counts as zeros."""
    kept = where.long() < rows.shape[0]
    picked = rows[where.long().clamp(max=max(0, rows.shape[0] - 1))]
    return picked * kept.unsqueeze(-1)


def _no_padding(op: str, padded_mode: bool) -> None:
    if padded_mode:
        raise NotEmulated(f"{op}: padded_mode=True is documented as not supported yet")
