"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
from portable.parallel.placement import Extent, ParameterShard, Placement, chunk
from portable.train.config import MuonConfig
from portable.train.optim.adamw import adamw_over
from portable.train.optim.kind import Kind, Kinds
from portable.train.optim.optimizer import Optimizer


class Muon(torch_optim.Optimizer):
    """Muon by a picked kernel; the formula is ``portable/kernel/reference/muon.py``.

    A matrix is orthogonalised as a whole. Where the ranks of an axis hold parts of it, they take turns: each
    gets the update of another matrix whole, orthogonalises it, and sends the parts back (Liu et al. 2025,
    arXiv:2502.16982, section 2.3); momentum and decay stay with the parts. Of a stack of matrices (experts)
    each is one of its own.
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
        self._placements = {
            id(shard.parameter): _of_matrix(shard.placement, local(shard.parameter), mesh) for shard in shards
        }

    def prepare(self, parameter: nn.Parameter) -> None:
        """Give ``parameter`` a momentum of zero."""
        zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        self.state[parameter] = {"momentum_buffer": zeros}

    @torch.no_grad()  # torch's own may take a closure, which no trainer of ours has
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient; ranks that hold parts of one must call together."""
        for group in self.param_groups:
            settings = {name: group[name] for name in ("lr", "weight_decay", "momentum")}
            divided: dict[str, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not self.state.get(parameter):
                    self.prepare(parameter)
                cuts = self._placements[id(parameter)].cuts
                if cuts:
                    divided.setdefault(cuts[-1].axis, []).append(parameter)
                else:
                    self._update_whole(parameter, settings)
            for axis, parameters in divided.items():
                self._update_divided(axis, parameters, settings)

    def _update_whole(self, parameter: nn.Parameter, settings: dict[str, Any]) -> None:  # Any: numbers
        for matrices in zip(*map(_matrices, self._held(parameter)), strict=True):
            self._muon_step(*matrices, dtype=self._dtype, **settings)

    def _held(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
        """Return this rank's part of a parameter, of its gradient and of its momentum."""
        if parameter.grad is None:
            raise ConfigError("a parameter without a gradient has no step; leave it out")
        return local(parameter), local(parameter.grad), local(self.state[parameter]["momentum_buffer"])

    def _update_divided(
        self, axis: str, parameters: Sequence[nn.Parameter], settings: dict[str, Any]
    ) -> None:  # Any: a group's numbers
        """Update parameters whose innermost cut is over ``axis``, one a rank at a time, by size."""
        size = self._mesh.size(axis)
        by_size = sorted(parameters, key=lambda parameter: -math.prod(self._placements[id(parameter)].shape))
        for first in range(0, len(by_size), size):
            turn = by_size[first : first + size]
            updates = [self._advance(parameter, settings["momentum"]) for parameter in turn]
            placements = [self._placements[id(parameter)] for parameter in turn]
            for parameter, step in zip(turn, self._steps(axis, updates, placements, settings), strict=True):
                local(parameter).mul_(1 - settings["lr"] * settings["weight_decay"]).add_(step)

    def _advance(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Move this rank's part of the momentum; return its part of the update (Nesterov's)."""
        _, gradient, buffer = self._held(parameter)
        gradient = gradient.to(buffer.dtype)
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)

    def _steps(
        self,
        axis: str,
        updates: Sequence[Tensor],
        placements: Sequence[Placement],
        settings: dict[str, Any],  # Any: a group's numbers
    ) -> list[Tensor]:
        """Return this rank's parts of the orthogonalised updates, of which rank r works on number r."""
        group = self._mesh.group(axis)
        counts = [update.numel() for update in updates] + [0] * (group.size - len(updates))
        theirs: list[int] = [0] * group.size
        parts: list[Extent] = []
        if group.rank < len(updates):
            parts = _parts(placements[group.rank], self._mesh)
            theirs = [math.prod(part.shape) for part in parts]
        sent = torch.cat([update.reshape(-1) for update in updates])
        received, _ = group.all_to_all_uneven(sent, counts, theirs)
        done = received
        if parts:
            pieces = [flat.view(part.shape) for flat, part in zip(received.split(theirs), parts, strict=True)]
            step = self._orthogonal_step(pieces, placements[group.rank], settings)
            done = torch.cat([part.of(step).reshape(-1) for part in parts])
        returned, _ = group.all_to_all_uneven(done, theirs, counts)
        flats = returned.split(counts)[: len(updates)]
        return [flat.view(update.shape) for flat, update in zip(flats, updates, strict=True)]

    def _orthogonal_step(
        self, pieces: Sequence[Tensor], placement: Placement, settings: dict[str, Any]
    ) -> Tensor:  # Any: a group's numbers
        """Join the parts along the innermost cut, and what other axes hold; return the whole's step there."""
        outer = replace(placement, cuts=placement.cuts[:-1])
        update = gather_whole(torch.cat(list(pieces), dim=placement.cuts[-1].dim), outer, self._mesh)
        step = torch.zeros_like(update)
        for target, matrix in zip(_matrices(step), _matrices(update), strict=True):
            # A kernel's step from zero, with the momentum where the gradient is, is the orthogonal one.
            self._muon_step(
                target,
                matrix,
                matrix.clone(),
                lr=settings["lr"],
                momentum=settings["momentum"],
                weight_decay=0.0,
                dtype=self._dtype,
            )
        return outer.extent(self._mesh).of(step)


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


def _of_matrix(placement: Placement, part: Tensor, mesh: Mesh) -> Placement:
    """Return the cuts that go through a matrix; leading dims count matrices, and are no part of one."""
    num_leading = len(placement.shape) - 2
    cuts = tuple(cut for cut in placement.cuts if cut.dim >= num_leading and mesh.size(cut.axis) > 1)
    shape = (*part.shape[:num_leading], *placement.shape[num_leading:])
    return replace(placement, shape=shape, cuts=cuts)


def _parts(placement: Placement, mesh: Mesh) -> list[Extent]:
    """Return the boxes of all ranks of the innermost cut, inside what is left of the whole by the others."""
    *outer, innermost = placement.cuts
    shape = replace(placement, cuts=tuple(outer)).extent(mesh).shape
    parts: list[Extent] = []
    for rank in range(mesh.size(innermost.axis)):
        start, length = chunk(shape[innermost.dim], mesh.size(innermost.axis), rank)
        offset = [0] * len(shape)
        offset[innermost.dim] = start
        parts.append(Extent(tuple(offset), (*shape[: innermost.dim], length, *shape[innermost.dim + 1 :])))
    return parts


def _matrices(stack: Tensor) -> Iterable[Tensor]:
    return stack.flatten(0, -3) if stack.ndim > 2 else [stack]
