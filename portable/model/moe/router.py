"""Which experts a token meets, and with what weight.

Shapes: N tokens, K chosen, E experts, G groups of e experts each, D hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portable.kernel.reference.moe import NORM_EPS
from portable.kernel.reference.precision import accumulation_dtype, without_autocast
from portable.kernel.registry import KernelSet
from portable.model.config import Gate, MoeConfig


class Router(nn.Module):
    """Scores every expert for every token, in float32 whatever the run's format, and chooses.

    ``bias`` (E,), of the sigmoid gate, takes part in the choice only. It has no gradient: what moves it is
    ``balance.finish_step``.
    """

    bias: Tensor | None

    def __init__(self, hidden_size: int, config: MoeConfig, kernels: KernelSet) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, hidden_size))
        has_bias = config.gate is Gate.sigmoid
        self.register_buffer("bias", torch.zeros(config.num_experts) if has_bias else None)
        facts: dict[str, Any] = {"num_experts": config.num_experts, "top_k": config.top_k}
        self._gate = kernels.pick("moe_gate", config.gate.value, **facts)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return the logits (N, E)."""
        dtype = accumulation_dtype(x_ND)
        with without_autocast(x_ND):
            return F.linear(x_ND.to(dtype), self.weight.to(dtype))

    def choose(self, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (N, K) and experts (N, K) int64."""
        config = self.config
        if config.gate is Gate.softmax:
            return self._gate(logits_NE, top_k=config.top_k, renormalize=config.renormalize)
        if config.num_groups > 1:
            return self._choose_in_groups(logits_NE)
        return self._gate(
            logits_NE,
            top_k=config.top_k,
            bias_E=self.bias,
            renormalize=config.renormalize,
            scale=config.routed_scale,
        )

    def scores(self, logits_NE: Tensor) -> Tensor:
        """Return each expert's share of a token's affinity, (N, E), in float32, summing to 1 over E."""
        if self.config.gate is Gate.softmax:
            return logits_NE.softmax(-1)
        affinity_NE = logits_NE.sigmoid()
        return affinity_NE / (affinity_NE.sum(-1, keepdim=True) + NORM_EPS)

    def _choose_in_groups(self, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Choose as the sigmoid gate does, among the experts of each token's best groups.

        A group's score is the sum of its two best biased scores. Of equal ones the lower comes first.
        Source: DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2, node-limited routing.
        """
        config = self.config
        affinity_NE = logits_NE.sigmoid()
        scores_NE = affinity_NE.detach() if self.bias is None else affinity_NE.detach() + self.bias
        scores_NGe = scores_NE.unflatten(-1, (config.num_groups, -1))
        group_scores_NG = scores_NGe.topk(2, dim=-1).values.sum(-1)
        groups = _best(group_scores_NG, config.top_k_groups)
        is_out_NG = torch.ones_like(group_scores_NG, dtype=torch.bool).scatter_(-1, groups, value=False)
        experts_NK = _best(
            scores_NGe.masked_fill(is_out_NG.unsqueeze(-1), -torch.inf).flatten(-2), config.top_k
        )
        weights_NK = affinity_NE.gather(-1, experts_NK)
        if config.renormalize:
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + NORM_EPS)
        return weights_NK * config.routed_scale, experts_NK


def _best(scores: Tensor, count: int) -> Tensor:
    # Not topk: which of equal scores it takes differs from device to device.
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
