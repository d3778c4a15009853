"""Data parallel: every rank holds the whole model; gradients are added up during the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import (
    GradBucket,  # pyright: ignore[reportPrivateImportUsage]  # documented as public; torch checks for this type
    ProcessGroup,
)
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.config import DdpConfig, PrecisionConfig
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placements
from portable.parallel.strategies.native import NativeStrategy
from portable.parallel.strategies.peer import need_peers


class DdpStrategy(NativeStrategy):
    """Replicates the model."""

    name = "ddp"

    def __init__(self, config: DdpConfig, precision: PrecisionConfig, mesh: Mesh, device: Device) -> None:
        super().__init__(config, precision, mesh, device)
        self.config = config
        self.group = mesh.group("data")
        self.process_group = need_peers(self.name, self.group)
        self._wrapped: list[DistributedDataParallel] = []

    @property
    def modules(self) -> list[nn.Module]:
        """The replicated parts."""
        return list(self._wrapped)

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Wrap every part. Raises: CapabilityError if torch set up something else than was asked for."""
        super().wrap(parts, placements)
        for part in self.parts:
            wrapped = DistributedDataParallel(
                part,
                process_group=self.process_group,
                bucket_cap_mb=self.config.bucket_mb,
                gradient_as_bucket_view=True,
            )
            wrapped.register_comm_hook(self.process_group, _sum_in(self.precision.reduce_dtype.torch()))
            if (
                wrapped.process_group is not self.process_group
                or self.process_group.size() != self.group.size
            ):
                raise CapabilityError(
                    f"strategy=ddp was to span {self.group.size} ranks over {self.group.communicator}, but "
                    f"torch wrapped the model for {self.process_group.size()}"
                )
            self._wrapped.append(wrapped)

    def accumulate(self, *, last: bool) -> None:
        """Let gradients travel on the last backward only; what ``no_sync()`` does, without its block."""
        for wrapped in self._wrapped:
            wrapped.require_backward_grad_sync = last

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "communicator": self.group.communicator,
            "bucket_mb": self.config.bucket_mb,
        }


def _sum_in(dtype: torch.dtype) -> Callable[[ProcessGroup, GradBucket], Future[Tensor]]:
    """Return the hook that adds gradients up in ``dtype``, narrower or wider than the gradients' own.

    Torch's own hooks average, and those that change the format check for the communicators of some vendors.
    """

    def add_up(state: ProcessGroup, bucket: GradBucket) -> Future[Tensor]:
        gradients = bucket.buffer()
        travelling = gradients.to(dtype)
        work = dist.all_reduce(travelling, group=state, async_op=True)
        if work is None:
            raise CapabilityError(
                "strategy=ddp got no handle of its own all_reduce; the group is not this rank's"
            )
        return work.get_future().then(lambda done: gradients.copy_(done.value()[0]))

    return add_up
