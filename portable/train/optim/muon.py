"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

from torch import nn
from torch import optim as torch_optim

from portable.core.errors import ConfigError
from portable.train.config import MuonConfig
from portable.train.optim.adamw import adamw_over
from portable.train.optim.optimizer import Optimizer, embedding_names, trainable


def build_muon(model: nn.Module, config: MuonConfig) -> Optimizer:
    """Return Muon over the matrices inside the model's repeated blocks and AdamW over the rest.

    Embeddings and the head stay with AdamW: orthogonalising their update would give every token, however
    rare, a step of the same size. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    Raises: ConfigError if the model has no hidden matrix to train.
    """
    inner = {id(parameter) for parameter in _hidden_matrices(model)}
    hidden = [(name, parameter) for name, parameter in trainable(model) if id(parameter) in inner]
    rest = [(name, parameter) for name, parameter in trainable(model) if id(parameter) not in inner]
    if not hidden:
        raise ConfigError("optim=muon found no hidden matrix among the trainable parameters; use optim=adamw")
    parts: list[torch_optim.Optimizer] = [
        torch_optim.Muon(hidden, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum)
    ]
    if rest:
        parts.append(adamw_over(model, rest, config, config.adamw_lr, 0.0))
    return Optimizer(parts)


def _hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    embeddings = embedding_names(model)
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2
        and name not in embeddings
        and any(name.startswith(f"{owner}.") for owner in lists)
    ]
