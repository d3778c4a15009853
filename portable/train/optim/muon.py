"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import optim as torch_optim
from torch.distributed.tensor import DTensor

from portable.core.errors import ConfigError
from portable.kernel.entry import Kernel
from portable.kernel.reference.muon import muon_step
from portable.kernel.registry import KernelSet
from portable.train.config import MuonConfig
from portable.train.optim.adamw import adamw_over
from portable.train.optim.optimizer import Optimizer, embedding_names, trainable


class Muon(torch_optim.Optimizer):
    """Muon by a picked kernel; the formula is ``portable/kernel/reference/muon.py``.

    A matrix is orthogonalised as a whole, so a sharded one takes the reference: its torch operators gather.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        kernel: Kernel,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        iteration_dtype: torch.dtype,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._muon_step = kernel
        self._dtype = iteration_dtype

    @torch.no_grad()  # torch's own may take a closure, which no trainer of ours has
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            settings = {name: group[name] for name in ("lr", "weight_decay", "momentum")}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, settings)

    def _update(
        self, parameter: nn.Parameter, grad: Tensor, settings: dict[str, Any]
    ) -> None:  # Any: a group's numbers
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        step = muon_step if isinstance(parameter, DTensor) else self._muon_step
        step(parameter, grad, state["momentum_buffer"], dtype=self._dtype, **settings)


def build_muon(model: nn.Module, config: MuonConfig, kernels: KernelSet) -> Optimizer:
    """Return Muon over the matrices inside the model's repeated blocks and AdamW over the rest.

    Embeddings and the head stay with AdamW: orthogonalising their update would give every token, however
    rare, a step of the same size. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    Raises: ConfigError if the model has no hidden matrix to train.
    """
    inner = {id(parameter) for parameter in _hidden_matrices(model)}
    hidden = [parameter for _, parameter in trainable(model) if id(parameter) in inner]
    rest = [(name, parameter) for name, parameter in trainable(model) if id(parameter) not in inner]
    if not hidden:
        raise ConfigError("optim=muon found no hidden matrix among the trainable parameters; use optim=adamw")
    parts: list[torch_optim.Optimizer] = [
        Muon(
            hidden,
            kernels.pick("muon_step"),
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            iteration_dtype=config.iteration_dtype.torch(),
        )
    ]
    if rest:
        parts.append(adamw_over(model, rest, config, kernels, config.adamw_lr, 0.0))
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
