"""The experts: many feed-forward layers, of which every token meets some.

Shapes: N tokens, K experts a token, M = N * K rows in the order of their experts, E experts (of this rank),
D hidden, F intermediate.
"""

from typing import Any

import torch
from torch import Tensor, nn

from portable.kernel.registry import KernelSet
from portable.model.config import MoeConfig


class Experts(nn.Module):
    """down_e(silu(gate_e(x)) * up_e(x)), weighted and added up over a token's experts.

    Expert parallelism replaces what is called, and leaves each rank some of the first dim of the weights.
    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1.
    """

    def __init__(self, hidden_size: int, config: MoeConfig, kernels: KernelSet) -> None:
        super().__init__()
        up = (config.num_experts, config.intermediate_size, hidden_size)
        self.gate = nn.Parameter(torch.empty(up))
        self.up = nn.Parameter(torch.empty(up))
        self.down = nn.Parameter(torch.empty(config.num_experts, hidden_size, config.intermediate_size))
        facts: dict[str, Any] = {"num_experts": config.num_experts, "top_k": config.top_k}
        self._permute = kernels.pick("moe_permute", **facts)
        self._unpermute = kernels.pick("moe_unpermute", top_k=config.top_k)
        self._matmul = kernels.pick("grouped_matmul", num_experts=config.num_experts)
        self._swiglu = kernels.pick("swiglu", size=config.intermediate_size)

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        """Return (N, D): sum over k of weights[n, k] * expert experts[n, k] of x[n]. No token is dropped."""
        rows_MD, slots_NK, counts_E = self._permute(x_ND, experts_NK, len(self.gate))
        gate_MF = self._matmul(rows_MD, self.gate.mT, counts_E)
        up_MF = self._matmul(rows_MD, self.up.mT, counts_E)
        made_MD = self._matmul(self._swiglu(gate_MF, up_MF), self.down.mT, counts_E)
        return self._unpermute(made_MD, slots_NK, weights_NK)
