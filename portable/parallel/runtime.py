"""What a stage computes with: a device, its peers, a strategy, kernels, number formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portable.collective.protocol import Group
from portable.core.random import derive_seed, seed_host
from portable.device.protocol import Device
from portable.hardware.spec import HardwareConfig
from portable.kernel.registry import KernelSet
from portable.parallel.config import PrecisionConfig
from portable.parallel.strategy import Strategy

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Runtime:
    """Built once per process by ``portable.parallel.build`` and handed to every stage."""

    device: Device
    group: Group
    strategy: Strategy
    kernels: KernelSet
    precision: PrecisionConfig
    hardware: HardwareConfig

    @property
    def torch_device(self) -> torch.device:
        """This rank's device."""
        return self.device.torch_device(self.group.local_rank)

    def seed_everything(self, seed: int) -> None:
        """Seed host and device streams, differently on each rank."""
        own = derive_seed(seed, "rank", self.group.rank)
        seed_host(own)
        self.device.seed(own)
