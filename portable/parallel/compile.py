"""The pass: the device's compiler compiles every block, between the places where ranks talk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from portable.device.protocol import Device
from portable.model.attention import AttentionCore
from portable.model.moe.layer import Moe
from portable.parallel.blocks import named_blocks
from portable.parallel.config import ParallelConfig
from portable.parallel.context.ring import RingAttention
from portable.parallel.context.ulysses import UlyssesAttention
from portable.parallel.memory.chunked_linear import ChunkedLinear

# What they do depends on numbers that the host reads (bounds of segments, loads of experts), or they talk to
# other ranks: no graph can hold that.
_OUTSIDE = (AttentionCore, ChunkedLinear, RingAttention, UlyssesAttention, Moe)


def apply_compilation(part: nn.Module, config: ParallelConfig, device: Device) -> list[str]:
    """Let the device's compiler compile the blocks of ``part``, each at its first call; return their names.

    Attention cores and mixtures of experts stay outside the graphs, as collectives do.
    """
    if not config.compile.enable:
        return []
    names: list[str] = []
    for name, block in named_blocks(part):
        for module in block.modules():
            if isinstance(module, _OUTSIDE):
                _set_forward(module, torch.compiler.disable)
        _set_forward(block, device.compile)
        names.append(name)
    return names


def _set_forward(module: nn.Module, change: Callable[[Callable[..., Any]], Any]) -> None:
    module.forward = change(module.forward)
