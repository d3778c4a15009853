"""The clipped policy loss of GRPO with a k3 penalty.

Source: Shao et al. 2024, arXiv:2402.03300, eq. 3 (sequence mean); Yu et al. 2025, arXiv:2503.14476, eq. 8
(token mean, separate upper clip). The weights in the batch say which of the two means it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from portable.core.errors import ShapeError
from portable.core.record import Batch
from portable.parallel.objective import LossSum, Model
from portable.rl.batch import RolloutBatch
from portable.rl.config import GrpoConfig
from portable.rl.kl import k3

if TYPE_CHECKING:
    from torch import Tensor


class GrpoObjective:
    """Maximises ``min(r A, clip(r) A)`` less ``kl_coef`` times the divergence from the reference policy.

    ``temperature`` is that of the sampling: ratios compare the distributions that were sampled from.
    """

    def __init__(self, config: GrpoConfig, temperature: float) -> None:
        self.config = config
        self.temperature = temperature

    def __call__(self, model: Model, batch: Batch) -> LossSum:
        """Return the loss summed with the batch's weights; and kl, clip_fraction and ratio likewise."""
        if not isinstance(batch, RolloutBatch):
            raise ShapeError("the policy loss needs a RolloutBatch; plain batches carry no advantages")
        log_probs_BT: Tensor = model(
            batch.input_ids_BT,
            batch.position_ids_BT,
            batch.cu_seqlens,
            targets=batch.learnt_target_ids_BT,
            temperature=self.temperature,
        )
        return self.loss(log_probs_BT, batch)

    def loss(self, log_probs_BT: Tensor, batch: RolloutBatch) -> LossSum:
        """Return the loss as a function of the new log-probs alone."""
        weight_BT = batch.loss_weight_BT
        counted_BT = weight_BT > 0
        log_ratio_BT = torch.where(counted_BT, log_probs_BT - batch.old_log_probs_BT, 0.0)
        ratio_BT = log_ratio_BT.exp()
        clipped_BT = ratio_BT.clamp(1 - self.config.clip_low, 1 + self.config.clip_high)
        gain_BT = torch.minimum(ratio_BT * batch.advantages_BT, clipped_BT * batch.advantages_BT)
        kl_BT = torch.where(counted_BT, k3(log_probs_BT, batch.ref_log_probs_BT), 0.0)
        loss_BT = self.config.kl_coef * kl_BT - gain_BT
        cut_BT = ratio_BT * batch.advantages_BT > clipped_BT * batch.advantages_BT
        return LossSum(
            (loss_BT * weight_BT).sum(),
            {
                "kl": (kl_BT.detach() * weight_BT).sum(),
                "clip_fraction": (cut_BT.float() * weight_BT).sum(),
                "ratio": (ratio_BT.detach() * weight_BT).sum(),
                "entropy": (-log_probs_BT.detach() * weight_BT).sum(),
            },
        )
