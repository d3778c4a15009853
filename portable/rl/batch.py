"""A micro-batch of sampled answers, with what the policy loss needs of each token. B rows, T tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portable.core.record import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True, kw_only=True)
class RolloutBatch(Batch):
    """Rows of prompt + answer.

    ``loss_weight_BT`` is positive on the answer's tokens only, and adds up to the number of terms of the
    loss: sequences or tokens. ``old_log_probs_BT`` are the engine's, at the time of sampling.
    """

    advantages_BT: Tensor
    old_log_probs_BT: Tensor
    ref_log_probs_BT: Tensor
