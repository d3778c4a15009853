"""AdamW with weight decay on matrices only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch import optim as torch_optim

from portable.kernel.entry import Kernel
from portable.kernel.registry import KernelSet
from portable.parallel.gradient import local
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard
from portable.train.config import AdamWConfig, MuonConfig
from portable.train.optim.kind import Kind, Kinds
from portable.train.optim.optimizer import Optimizer


class AdamW(torch_optim.Optimizer):
    """AdamW by a picked kernel; the formula is ``portable/kernel/reference/adamw.py``.

    The state of a parameter has the keys of torch's own AdamW: ``step``, ``exp_avg``, ``exp_avg_sq``.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],  # Any: torch's groups mix parameters and numbers
        kernel: Kernel,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._adamw = kernel

    def prepare(self, parameter: nn.Parameter) -> None:
        """Give ``parameter`` moments of zero."""
        # The step is a tensor on the host, as torch keeps it: checkpoints hold tensors, and reading it never
        # waits.
        self.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }

    @torch.no_grad()  # torch's own may take a closure, which no trainer of ours has
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for step, held in self._by_step(group["params"]).items():
                self._update(
                    held,
                    step=step,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    eps=group["eps"],
                    weight_decay=group["weight_decay"],
                )

    def _update(self, held: list[nn.Parameter], **settings: Any) -> None:  # Any: the kernel's numbers
        """Update parameters that have a gradient and take their step of the same number."""
        states = [self.state[parameter] for parameter in held]
        self._adamw(
            [local(parameter) for parameter in held],
            [local(parameter.grad) for parameter in held if parameter.grad is not None],
            [local(state["exp_avg"]) for state in states],
            [local(state["exp_avg_sq"]) for state in states],
            **settings,
        )

    def _by_step(self, parameters: list[nn.Parameter]) -> dict[int, list[nn.Parameter]]:
        """Count this step for all parameters with a gradient; return them by the number of it, mostly one."""
        held: dict[int, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                continue
            if not self.state.get(parameter):
                self.prepare(parameter)
            state = self.state[parameter]
            state["step"] += 1
            held.setdefault(int(state["step"]), []).append(parameter)
        return held


def build_adamw(
    shards: Iterable[ParameterShard], kinds: Kinds, config: AdamWConfig, kernels: KernelSet, mesh: Mesh
) -> Optimizer:
    """Return AdamW over all of ``shards``."""
    return Optimizer([adamw_over(shards, kinds, config, kernels, config.lr, config.weight_decay)])


def adamw_over(
    shards: Iterable[ParameterShard],
    kinds: Kinds,
    config: AdamWConfig | MuonConfig,
    kernels: KernelSet,
    lr: float,
    weight_decay: float,
) -> AdamW:
    """Return AdamW over some of the model's parameters."""
    groups = adamw_groups(shards, kinds, weight_decay)
    betas = (config.beta1, config.beta2)
    return AdamW(groups, kernels.pick("adamw"), lr=lr, betas=betas, eps=config.eps)


def adamw_groups(
    shards: Iterable[ParameterShard], kinds: Kinds, weight_decay: float
) -> list[dict[str, Any]]:  # Any: torch's groups mix parameters and numbers
    """Return parameter groups of those that are decayed and those that are not.

    Norms, biases and embeddings are not: the first two are scales, not directions, and an embedding row that
    no batch touched would shrink all the same.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for shard in shards:
        is_matrix = kinds[shard.name] in (Kind.hidden, Kind.outer)
        (decayed if is_matrix else kept).append(shard.parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
