"""Strategies under which every rank computes with whole parameters: one process alone, data parallel, and
ZeRO stages 1 and 2.

Bytes a rank of N for each parameter, with AdamW; c, r: of ``compute_dtype`` and ``reduce_dtype``, weights and
moments being 4 each. In float32: ddp 16; zero1 8 + 8/N; zero2 4 + 12/N. With copies in a 16-bit
``compute_dtype``: zero1 c + r + 12/N; zero2 c + (r + 12)/N.
"""

from __future__ import annotations

from typing import Any

from portable.device.protocol import Device
from portable.parallel.config import DdpConfig, PrecisionConfig, SingleConfig, ZeroConfig
from portable.parallel.mesh import Mesh
from portable.parallel.strategies.native import NativeStrategy
from portable.parallel.strategies.peer import checked_group
from portable.parallel.strategies.replica import Divides, Terms

_SINGLE_BUCKET_MB = 25


class SingleStrategy(NativeStrategy):
    """Trains on this process's own device, or over model-parallel ranks that read the same samples."""

    needs_peers = False

    def __init__(self, config: SingleConfig, precision: PrecisionConfig, mesh: Mesh, device: Device) -> None:
        terms = Terms(config.name, Divides.nothing, casts=False, bucket_mb=_SINGLE_BUCKET_MB)
        super().__init__(config, precision, mesh, device, terms)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return the name and the size."""
        return {"name": self.name, "world_size": self.mesh.world.size}


class DdpStrategy(NativeStrategy):
    """Replicates the model; gradients add up while the backward pass runs."""

    def __init__(self, config: DdpConfig, precision: PrecisionConfig, mesh: Mesh, device: Device) -> None:
        terms = Terms(config.name, Divides.nothing, casts=False, bucket_mb=config.bucket_mb)
        super().__init__(config, precision, mesh, device, terms)
        self.group = checked_group(self.name, "data", mesh, device)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "communicator": self.group.communicator,
            "bucket_mb": self.terms.bucket_mb,
        }


class ZeroStrategy(NativeStrategy):
    """Replicates the parameters that compute; divides optimiser state (zero1), and gradients (zero2).

    Under a pipeline schedule, whose backward passes are its own, zero2 divides gradients at the step's end.
    """

    def __init__(self, config: ZeroConfig, precision: PrecisionConfig, mesh: Mesh, device: Device) -> None:
        divides = {"zero1": Divides.states, "zero2": Divides.gradients}[config.name]
        terms = Terms(config.name, divides, casts=True, bucket_mb=config.bucket_mb)
        super().__init__(config, precision, mesh, device, terms)
        self.group = checked_group(self.name, "data", mesh, device)
        self.shard_group = checked_group(self.name, "shard", mesh, device)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "shard_size": self.shard_group.size,
            "divides": self.terms.divides.name,
            "communicator": self.group.communicator,
            "bucket_mb": self.terms.bucket_mb,
        }
