"""Gated activations by the NPU's fused operators.

They take gate and up side by side in one tensor, which has to be made first. In units of one operand, with
its ``cat`` a forward pass moves 7 (5 without fusion), forward and backward 12 (14), and keeps 2 for the
backward pass (3). Counted, not measured.
Source: torch_npu 2.13.0, documentation and schemas of ``npu_swiglu`` and ``npu_geglu``.
"""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor

from portable.kernel.reference import activation as reference

_ERF, _TANH = 0, 1  # approximate


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``swiglu`` of the reference."""
    reference.check_gate("swiglu", gate, up)
    if gate.numel() == 0:
        return reference.swiglu(gate, up)
    return torch_npu.npu_swiglu(_side_by_side(gate, up), dim=-1).view(gate.shape)


def geglu_erf(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``geglu_erf`` of the reference."""
    reference.check_gate("geglu_erf", gate, up)
    if gate.numel() == 0:
        return reference.geglu_erf(gate, up)
    return _geglu(gate, up, _ERF)


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    """Compute ``geglu_tanh`` of the reference."""
    reference.check_gate("geglu_tanh", gate, up)
    if gate.numel() == 0:
        return reference.geglu_tanh(gate, up)
    return _geglu(gate, up, _TANH)


def _geglu(gate: Tensor, up: Tensor, approximate: int) -> Tensor:
    joined = _side_by_side(gate, up)
    return torch_npu.npu_geglu(joined, dim=-1, approximate=approximate, activate_left=True)[0].view(
        gate.shape
    )


def _side_by_side(gate: Tensor, up: Tensor) -> Tensor:
    """Return rows of gate and up, in the wider of their formats."""
    dtype = torch.promote_types(gate.dtype, up.dtype)
    size = gate.shape[-1] if gate.dim() else 1
    return torch.cat([x.to(dtype).reshape(-1, size) for x in (gate, up)], dim=-1)
