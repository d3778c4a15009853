"""AdamW with weight decay on matrices only."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch import optim as torch_optim

from portable.train.config import AdamWConfig, MuonConfig
from portable.train.optim.optimizer import Optimizer, embedding_names, trainable

logger = logging.getLogger(__name__)


def build_adamw(model: nn.Module, config: AdamWConfig) -> Optimizer:
    """Return AdamW over the trainable parameters of ``model``."""
    return Optimizer([adamw_over(model, trainable(model), config, config.lr, config.weight_decay)])


def adamw_over(
    model: nn.Module,
    parameters: Iterable[tuple[str, nn.Parameter]],
    config: AdamWConfig | MuonConfig,
    lr: float,
    weight_decay: float,
) -> torch_optim.AdamW:
    """Return AdamW over some of the model's parameters, fused into one pass where the device can.

    Norms, biases and embeddings are not decayed: the first two are scales, not directions, and an embedding
    row that no batch touched would shrink all the same.
    """
    embeddings = embedding_names(model)
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in parameters:
        (kept if parameter.ndim < 2 or name in embeddings else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    settings: dict[str, Any] = {
        "lr": lr,
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
    }  # Any: torch's kwargs
    groups = [group for group in groups if group["params"]]
    try:
        return torch_optim.AdamW(groups, fused=True, **settings)
    except RuntimeError as error:
        logger.info("AdamW is not fused on this device: %s", error)
        return torch_optim.AdamW(groups, **settings)
