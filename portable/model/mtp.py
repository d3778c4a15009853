"""Multi-token prediction: further depths that read the next known token and predict the one after it.

Shapes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from portable.core.record import IGNORED
from portable.kernel.registry import KernelSet
from portable.model.auxiliary import Auxiliary
from portable.model.block import Block
from portable.model.config import ModelConfig
from portable.model.norm import RmsNorm


class MtpDepth(nn.Module):
    """norm(block(W [norm(embedding of the next token), norm(hidden states)])).

    Embedding and head are the model's own. Source: DeepSeek-AI 2024, arXiv:2412.19437, eq. 21 to 23; in what
    order W reads, and that hidden states come after the final norm, is that of the released weights.
    """

    def __init__(self, config: ModelConfig, kernels: KernelSet, layer: int, auxiliary: Auxiliary) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.embed_norm = RmsNorm(size, eps, kernels)
        self.hidden_norm = RmsNorm(size, eps, kernels)
        self.projection = nn.Linear(2 * size, size, bias=False)
        self.block = Block(config, kernels, layer, auxiliary)
        self.norm = RmsNorm(size, eps, kernels)

    def forward(
        self,
        hidden_BTD: Tensor,
        next_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cu_seqlens: Tensor | None,
    ) -> Tensor:
        """Return the next depth's hidden states, (B, T, D); ``next_BTD`` embeds the next tokens."""
        both = torch.cat((self.embed_norm(next_BTD), self.hidden_norm(hidden_BTD)), -1)
        return self.norm(self.block(self.projection(both), rotary, cu_seqlens))


def shift_targets(targets_BT: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Return the target of one token later in the same segment, ``IGNORED`` at the end of each."""
    shifted_BT = targets_BT.roll(-1, dims=1)
    shifted_BT[:, -1] = IGNORED
    if cu_seqlens is not None:
        ends = cu_seqlens[1:].long() - 1
        shifted_BT.view(-1)[ends[ends >= 0]] = IGNORED
    return shifted_BT
