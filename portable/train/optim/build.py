"""From settings to an optimiser."""

from collections.abc import Sequence

from portable.core.errors import ConfigError
from portable.core.registry import Registry
from portable.kernel.registry import KernelSet
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard
from portable.train.config import OptimConfig
from portable.train.optim.kind import Kinds
from portable.train.optim.optimizer import Optimizer

OPTIMIZERS = Registry(
    "optimiser",
    {
        "adamw": "portable.train.optim.adamw:build_adamw",
        "adamw8bit": "portable.train.optim.adamw8bit:build_adamw8bit",
        "muon": "portable.train.optim.muon:build_muon",
    },
    entry_group="portable.optimizers",
)


def build_optimizer(
    shards: Sequence[ParameterShard], kinds: Kinds, config: OptimConfig, kernels: KernelSet, mesh: Mesh
) -> Optimizer:
    """Return the optimiser that ``config.name`` names, over ``shards``, whose kinds are ``kinds``.

    Raises: ConfigError for an unknown name, or if nothing is trainable.
    """
    if not shards and mesh.layout.pp == 1:
        raise ConfigError("the model has no trainable parameter; unfreeze some, or add an adapter")
    return OPTIMIZERS.get(config.name)(shards, kinds, config, kernels, mesh)
