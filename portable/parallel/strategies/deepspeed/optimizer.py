"""The torch optimiser that the engine steps."""

from __future__ import annotations

from torch import optim as torch_optim

from portable.core.errors import ConfigError
from portable.device.protocol import Device
from portable.parallel.strategies.deepspeed.config import DeepspeedConfig
from portable.parallel.strategy import StepOptimizer


def engine_optimizer(
    optimizer: StepOptimizer, config: DeepspeedConfig, device: Device
) -> torch_optim.Optimizer:
    """Return the trainer's AdamW; where its state is offloaded, DeepSpeed's for the host, with the same
    groups, so that the schedule moves both.

    Raises: ConfigError for another optimiser: the engine updates flat pieces, which only an elementwise rule
    can.
    """
    if len(optimizer.parts) != 1 or not _is_adamw(optimizer.parts[0]):
        names = ", ".join(type(part).__name__ for part in optimizer.parts)
        raise ConfigError(
            f"strategy=deepspeed updates flat pieces of parameters by one AdamW, not by {names};"
            " use optim=adamw, or strategy=fsdp"
        )
    own = optimizer.parts[0]
    if config.offload_optimizer.device == "none":
        return own
    from portable.parallel.strategies.deepspeed.extension import load_host_optimizer

    load_host_optimizer(device)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    first = own.param_groups[0]
    # torch keeps the very dicts it is given, so a learning rate that is set in one optimiser is set in both.
    return DeepSpeedCPUAdam(
        own.param_groups, lr=first["lr"], betas=first["betas"], eps=first["eps"], adamw_mode=True
    )


def _is_adamw(part: torch_optim.Optimizer) -> bool:
    """Whether it has AdamW's settings and no more (such as a block size of moments in 8 bits)."""
    return set(part.defaults) == {"lr", "betas", "eps", "weight_decay"}
