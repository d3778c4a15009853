"""The mixture-of-experts layer.

Shapes: B rows, T tokens a row, N = B * T, E experts, K of them a token, D hidden.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from portable.kernel.registry import KernelSet
from portable.model.auxiliary import Auxiliary
from portable.model.config import MoeConfig
from portable.model.mlp import Mlp
from portable.model.moe.balance import count_choices, sequence_balance_loss, z_loss
from portable.model.moe.experts import Experts
from portable.model.moe.router import Router


class Moe(nn.Module):
    """shared(x) + sum over a token's experts of weight * expert(x).

    ``sum_counts`` adds counts over the ranks that hold other tokens of the same rows (context and sequence
    parallelism set it). ``load_E`` is how often the last step chose each expert, all ranks' tokens counted.
    """

    def __init__(
        self, hidden_size: int, config: MoeConfig, kernels: KernelSet, layer: int, auxiliary: Auxiliary
    ) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.router = Router(hidden_size, config, kernels)
        self.experts = Experts(hidden_size, config, kernels)
        self.shared = (
            Mlp(hidden_size, config.num_shared_experts * config.intermediate_size, kernels)
            if config.num_shared_experts
            else None
        )
        self.auxiliary = auxiliary
        self.sum_counts: Callable[[Tensor], Tensor] = _alone
        self.load_E: Tensor | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, T, D)."""
        x_ND = x_BTD.flatten(0, -2)
        logits_NE = self.router(x_ND)
        weights_NK, experts_NK = self.router.choose(logits_NE)
        out_ND = self.experts(x_ND, weights_NK, experts_NK)
        if self.training and torch.is_grad_enabled():
            out_ND = self._balance(out_ND, logits_NE, experts_NK, num_rows=len(x_BTD))
        out_BTD = out_ND.view_as(x_BTD)
        return out_BTD if self.shared is None else out_BTD + self.shared(x_BTD)

    def _balance(self, out_ND: Tensor, logits_NE: Tensor, experts_NK: Tensor, num_rows: int) -> Tensor:
        config, attach = self.config, self.auxiliary.attach
        if config.aux_loss_coef:
            loss = sequence_balance_loss(
                self.router.scores(logits_NE), config.top_k, num_rows, self.sum_counts
            )
            out_ND = attach(out_ND, "moe_aux_loss", config.aux_loss_coef * loss)
        if config.router_z_loss_coef:
            out_ND = attach(out_ND, "router_z_loss", config.router_z_loss_coef * z_loss(logits_NE))
        return attach(out_ND, load_name(self.layer), count_choices(experts_NK.flatten(), config.num_experts))


def load_name(layer: int) -> str:
    """Return the name of the sum that counts the choices of a layer's experts."""
    return f"load/{layer}"


def _alone(counts: Tensor) -> Tensor:
    return counts
