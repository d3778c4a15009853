"""Optimisers over a whole model on one rank."""

from __future__ import annotations

from torch import nn

from portable.collective.local import LocalGroup
from portable.kernel.registry import KernelSet
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement
from portable.train.config import OptimConfig
from portable.train.optim.build import build_optimizer
from portable.train.optim.kind import kinds_of
from portable.train.optim.optimizer import Optimizer

KERNELS = KernelSet("cpu", "fp32")


def shards_of(model: nn.Module) -> list[ParameterShard]:
    """The trainable parameters, each whole."""
    return [
        ParameterShard(name, parameter, Placement(tuple(parameter.shape)))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


def build(model: nn.Module, config: OptimConfig, kernels: KernelSet = KERNELS) -> Optimizer:
    mesh = Mesh(Layout(), LocalGroup("world"), "cpu")
    return build_optimizer(shards_of(model), kinds_of(model), config, kernels, mesh)
