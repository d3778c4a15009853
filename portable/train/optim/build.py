"""From settings to an optimiser."""

from torch import nn

from portable.core.errors import ConfigError
from portable.core.registry import Registry
from portable.kernel.registry import KernelSet
from portable.train.config import OptimConfig
from portable.train.optim.optimizer import Optimizer, trainable

OPTIMIZERS = Registry(
    "optimiser",
    {
        "adamw": "portable.train.optim.adamw:build_adamw",
        "muon": "portable.train.optim.muon:build_muon",
    },
    entry_group="portable.optimizers",
)


def build_optimizer(model: nn.Module, config: OptimConfig, kernels: KernelSet) -> Optimizer:
    """Return the optimiser that ``config.name`` names, over the trainable parameters of ``model``.

    Raises: ConfigError for an unknown name, or if nothing is trainable.
    """
    if not trainable(model):
        raise ConfigError("the model has no trainable parameter; unfreeze some, or add an adapter")
    return OPTIMIZERS.get(config.name)(model, config, kernels)
