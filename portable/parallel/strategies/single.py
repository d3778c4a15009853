"""One process, one device: the model as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from portable.collective.protocol import Group
from portable.core.errors import ConfigError
from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig, SingleConfig
from portable.parallel.gradient import clip_gradients, host_state_dict


class SingleStrategy:
    """Trains on this process's own device."""

    name = "single"
    needs_peers = False

    def __init__(
        self, config: SingleConfig, precision: PrecisionConfig, group: Group, device: Device
    ) -> None:
        if group.size != 1:
            raise ConfigError(
                f"strategy=single with {group.size} processes would train {group.size} models that never "
                "meet; use strategy=ddp or strategy=fsdp, or start one process"
            )
        self.precision = precision
        self.device = device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, its parameters in ``precision.param_dtype``."""
        return model.to(dtype=self.precision.param_dtype.torch())

    def accumulate(self, wrapped: nn.Module, *, last: bool) -> None:
        """Do nothing: gradients do not travel."""

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass."""
        loss.backward()

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients to a norm of at most ``max_norm``; return the norm before."""
        return clip_gradients(model, max_norm)

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights on the host."""
        return host_state_dict(model, self.device)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return the name and the size."""
        return {"name": self.name, "world_size": 1}
