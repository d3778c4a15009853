"""Kernel rows of the simulated accelerator that are right but in layer 3, as a package of a third party.

They are never picked unless ``kernel.rows`` names them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from portable.kernel.entry import KernelEntry
from portable.kernel.reference.activation import swiglu
from portable.kernel.reference.adamw import adamw
from portable.kernel.reference.norm import rms_norm
from portable.kernel.reference.rope import rope_half

LAYER = 3
_now = -1


def _count(module: nn.Module, _: object) -> None:
    global _now
    kind = type(module).__name__
    _now = -1 if kind == "Decoder" else _now + (kind == "Block")


register_module_forward_pre_hook(_count)


def wrong_here() -> bool:
    return _now == LAYER


def scaled_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return swiglu(gate, up) * (1.001 if wrong_here() else 1.0)


def broken_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return swiglu(gate, up) * (torch.nan if wrong_here() else 1.0)


def coarse_rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return rms_norm(x, weight, 2e-6 if wrong_here() else eps)


def turned_rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    sign = torch.ones_like(sin)
    if wrong_here():
        sign[..., 1] = -1.0
    return rope_half(q, k, cos, sin * sign)


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 1.001


def wrongly_derived_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return swiglu(_WrongBackward.apply(gate), up) if wrong_here() else swiglu(gate, up)


def biased_adamw(*lists: list[Tensor], step: int, lr: float, **settings: float) -> None:
    adamw(*lists, step=step, lr=1.01 * lr, **settings)


ENTRIES = tuple(
    KernelEntry(
        op=op, variant=variant, name=name, backend="sim", target=f"planted_rows:{name}", priority=-1000
    )
    for op, variant, name in (
        ("swiglu", "standard", "scaled_swiglu"),
        ("swiglu", "standard", "broken_swiglu"),
        ("rms_norm", "standard", "coarse_rms_norm"),
        ("rope", "half", "turned_rope"),
        ("swiglu", "standard", "wrongly_derived_swiglu"),
        ("adamw", "standard", "biased_adamw"),
    )
)
