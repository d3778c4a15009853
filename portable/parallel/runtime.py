"""What a stage computes with: a device, its peers, a strategy, kernels, number formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portable.collective.protocol import Group
from portable.core.random import derive_seed, seed_host
from portable.device.protocol import Device
from portable.hardware.spec import HardwareConfig
from portable.kernel.registry import KernelSet
from portable.parallel.config import ParallelConfig, PrecisionConfig
from portable.parallel.mesh import Mesh
from portable.parallel.strategy import Strategy

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Runtime:
    """Built once per process by ``portable.parallel.build`` and handed to every stage.

    Each model that trains has a strategy of its own, from ``new_strategy``; ``strategy`` is what that makes.
    """

    device: Device
    mesh: Mesh
    parallel: ParallelConfig
    strategy: str
    new_strategy: Callable[[], Strategy]
    kernels: KernelSet
    precision: PrecisionConfig
    hardware: HardwareConfig
    modules: dict[str, list[str]] = field(default_factory=dict)
    """What passes did to this rank's modules, for the run's record: names by what was done."""

    def note(self, what: str, names: list[str]) -> None:
        """Add to ``modules``."""
        if names:
            self.modules.setdefault(what, []).extend(names)

    @property
    def group(self) -> Group:
        """All ranks of the run."""
        return self.mesh.world

    @property
    def readers(self) -> Group:
        """The ranks that read different samples."""
        return self.mesh.group("batch")

    @property
    def torch_device(self) -> torch.device:
        """This rank's device."""
        return self.device.torch_device(self.group.local_rank)

    def seed_everything(self, seed: int) -> None:
        """Seed host and device streams, differently on ranks that read different samples."""
        own = derive_seed(seed, "rank", self.readers.rank)
        seed_host(own)
        self.device.seed(own)
