"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch import optim as torch_optim

from portable.core.errors import ConfigError
from portable.kernel.entry import Kernel
from portable.kernel.registry import KernelSet
from portable.parallel.gather import gather_whole
from portable.parallel.gradient import local
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement
from portable.train.config import MuonConfig
from portable.train.optim.adamw import adamw_over
from portable.train.optim.kind import Kind, Kinds
from portable.train.optim.optimizer import Optimizer


class Muon(torch_optim.Optimizer):
    """Muon by a picked kernel; the formula is ``portable/kernel/reference/muon.py``.

    A matrix is orthogonalised as a whole: where ranks hold parts of it, each gathers it and keeps its part of
    the result. Of a stack of matrices (experts) each is one of its own.
    """

    def __init__(
        self,
        shards: Sequence[ParameterShard],
        kernel: Kernel,
        mesh: Mesh,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        iteration_dtype: torch.dtype,
    ) -> None:
        parameters = [shard.parameter for shard in shards]
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._muon_step = kernel
        self._mesh = mesh
        self._dtype = iteration_dtype
        self._placements = {id(shard.parameter): _of_matrix(shard.placement) for shard in shards}

    def prepare(self, parameter: nn.Parameter) -> None:
        """Give ``parameter`` a momentum of zero."""
        zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        self.state[parameter] = {"momentum_buffer": zeros}

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
        if not self.state.get(parameter):
            self.prepare(parameter)
        placement = self._placements[id(parameter)]
        parts = [local(tensor) for tensor in (parameter, grad, self.state[parameter]["momentum_buffer"])]
        wholes = [gather_whole(part, placement, self._mesh) for part in parts]
        for matrices in zip(
            *(whole.flatten(0, -3) if whole.ndim > 2 else [whole] for whole in wholes), strict=True
        ):
            self._muon_step(*matrices, dtype=self._dtype, **settings)
        for part, whole in ((parts[0], wholes[0]), (parts[2], wholes[2])):
            if part is not whole:
                own = replace(placement, shape=tuple(whole.shape)).extent(self._mesh)
                part.copy_(own.of(whole))


def build_muon(
    shards: Sequence[ParameterShard], kinds: Kinds, config: MuonConfig, kernels: KernelSet, mesh: Mesh
) -> Optimizer:
    """Return Muon over the matrices inside the model's repeated blocks and AdamW over the rest.

    Embeddings and the head stay with AdamW: orthogonalising their update would give every token, however
    rare, a step of the same size. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    Raises: ConfigError if the model has no hidden matrix to train.
    """
    hidden = [shard for shard in shards if kinds[shard.name] is Kind.hidden]
    rest = [shard for shard in shards if kinds[shard.name] is not Kind.hidden]
    if not hidden:
        raise ConfigError("optim=muon found no hidden matrix among the trainable parameters; use optim=adamw")
    parts: list[torch_optim.Optimizer] = [
        Muon(
            hidden,
            kernels.pick("muon_step"),
            mesh,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            iteration_dtype=config.iteration_dtype.torch(),
        )
    ]
    if rest:
        parts.append(adamw_over(rest, kinds, config, kernels, config.adamw_lr, 0.0))
    return Optimizer(parts)


def _of_matrix(placement: Placement) -> Placement:
    """Return the cuts that go through a matrix; leading dims count matrices, and are no part of one."""
    num_leading = len(placement.shape) - 2
    cuts = tuple(cut for cut in placement.cuts if cut.dim >= num_leading)
    return replace(placement, cuts=cuts)
