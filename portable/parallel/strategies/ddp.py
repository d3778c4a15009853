"""Data parallel: every rank holds the whole model; gradients are averaged during the backward pass."""

from collections.abc import Callable
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

from portable.collective.protocol import Group
from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.config import DdpConfig, PrecisionConfig
from portable.parallel.gradient import clip_gradients, host_state_dict
from portable.parallel.strategies.peer import need_peers


class DdpStrategy:
    """Replicates the model; rank 0's weights are the ones that all start with."""

    name = "ddp"
    needs_peers = True

    def __init__(self, config: DdpConfig, precision: PrecisionConfig, group: Group, device: Device) -> None:
        self.process_group = need_peers(self.name, group)
        self.config = config
        self.precision = precision
        self.group = group
        self.device = device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the replicated module.

        Raises: CapabilityError if torch set up something else than was asked for.
        """
        wrapped = DistributedDataParallel(
            model.to(dtype=self.precision.param_dtype.torch()),
            process_group=self.process_group,
            bucket_cap_mb=self.config.bucket_mb,
            gradient_as_bucket_view=True,
        )
        if self.precision.reduce_dtype is not self.precision.param_dtype:
            wrapped.register_comm_hook(self.process_group, _mean_in(self.precision.reduce_dtype.torch()))
        if wrapped.process_group is not self.process_group or self.process_group.size() != self.group.size:
            raise CapabilityError(
                f"strategy=ddp was to span {self.group.size} ranks over {self.group.communicator}, but torch "
                f"wrapped the model for {self.process_group.size()}"
            )
        return wrapped

    def accumulate(self, wrapped: nn.Module, *, last: bool) -> None:
        """Let gradients travel on the last backward only; what ``no_sync()`` does, without its block."""
        if not isinstance(wrapped, DistributedDataParallel):
            raise CapabilityError(
                f"strategy=ddp was given a {type(wrapped).__name__}; call wrap() first and train its result"
            )
        wrapped.require_backward_grad_sync = last

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass."""
        loss.backward()

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients to a norm of at most ``max_norm``; return the norm before."""
        return clip_gradients(model, max_norm)

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights on the host, under the model's own names."""
        module = model.module if isinstance(model, DistributedDataParallel) else model
        return host_state_dict(module, self.device)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "communicator": self.group.communicator,
            "bucket_mb": self.config.bucket_mb,
        }


def _mean_in(dtype: torch.dtype) -> Callable[[ProcessGroup, GradBucket], Future[Tensor]]:
    """Return the hook that averages gradients in ``dtype``, narrower or wider than the gradients' own.

    Torch's own hooks of this kind check for the communicators of some vendors; this one runs on every one.
    """

    def average(state: ProcessGroup, bucket: GradBucket) -> Future[Tensor]:
        gradients = bucket.buffer()
        travelling = gradients.to(dtype).div_(state.size())
        work = dist.all_reduce(travelling, group=state, async_op=True)
        if work is None:
            raise CapabilityError(
                "strategy=ddp got no handle of its own all_reduce; the group is not this rank's"
            )
        return work.get_future().then(lambda done: gradients.copy_(done.value()[0]))

    return average
