"""The objective of pretraining and of supervised fine-tuning: the likelihood of each next token."""

from portable.core.record import Batch
from portable.parallel.objective import LossSum, Model


def next_token_loss(model: Model, batch: Batch) -> LossSum:
    """Return -sum of weight × log p(target), in nats. The weights decide which tokens are learnt."""
    log_probs_BT = model(
        batch.input_ids_BT, batch.position_ids_BT, batch.cu_seqlens, targets=batch.learnt_target_ids_BT
    )
    return LossSum(-(log_probs_BT * batch.loss_weight_BT).sum())
