"""Our experts in the places of those of ``transformers``: grouped matmuls, and experts that can be divided.

Shapes: N tokens, K experts a token, E experts, D hidden, F intermediate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portable.core.errors import ShapeError
from portable.kernel.registry import KernelSet
from portable.model.config import MoeConfig
from portable.model.moe.experts import Experts

_PLAIN = {"has_bias": False, "is_transposed": False, "is_concatenated": True, "has_post_expert_norm": False}


def replace_experts(base: nn.Module, top_k: int, kernels: KernelSet) -> None:
    """Replace every module of experts whose formula is that of ``Experts``; leave others as they are.

    Theirs hold gate and up in one parameter, (E, 2F, D), ours each alone: halves of it can then be cut.
    """
    for name, module in list(base.named_modules()):
        shapes = {key: tuple(value.shape) for key, value in module.named_parameters(recurse=False)}
        if set(shapes) != {"gate_up_proj", "down_proj"} or not _is_plain(module):
            continue
        num_experts, hidden_size, intermediate_size = shapes["down_proj"]
        config = MoeConfig(num_experts=num_experts, top_k=top_k, intermediate_size=intermediate_size)
        experts = Experts(hidden_size, config, kernels)
        experts.register_forward_pre_hook(_reorder)
        holder, _, word = name.rpartition(".")
        base.get_submodule(holder).register_module(word, experts)


def _is_plain(module: nn.Module) -> bool:
    """Return whether this is down(silu(gate(x)) * up(x)) without anything more; the gate is tried."""
    if any(getattr(module, key, None) is not value for key, value in _PLAIN.items()):
        return False
    gate_up = torch.linspace(-50.0, 50.0, 16, device="cpu").unsqueeze(0)
    gate, up = gate_up.chunk(2, dim=-1)
    apply_gate: Callable[[Tensor], Tensor] | None = getattr(module, "_apply_gate", None)
    return apply_gate is not None and torch.allclose(apply_gate(gate_up), F.silu(gate) * up)


# Any: positional arguments of any module
def _reorder(experts: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Turn their x (N, D), experts (N, K), weights (N, K) into our x, weights, experts."""
    if len(args) != 3:
        raise ShapeError(f"experts were called with {len(args)} arguments by position; they take 3")
    x_ND, experts_NK, weights_NK = args
    return x_ND, weights_NK, experts_NK
