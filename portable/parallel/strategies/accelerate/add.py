"""Wrappers that average gradients, made to add them. DDP reads a hook's annotations as objects, so here they
are no strings.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from portable.core.errors import CapabilityError


def let_it_add(prepared: nn.Module) -> None:
    """Have the wrapper add gradients up over ranks, where it would average them."""
    if isinstance(prepared, DistributedDataParallel):
        prepared.register_comm_hook(prepared.process_group, _sum)
    for module in prepared.modules():
        if isinstance(module, FSDPModule):
            module.set_reduce_scatter_unused_params(True)
            module.set_gradient_divide_factor(1.0)  # portable: ignore[P06] - the next line keeps to sums
            module.set_force_sum_reduction_for_comms(True)


def _sum(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    """Add up a bucket, as DDP's communication hook."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    if work is None:
        raise CapabilityError("this rank is not in the group that its gradients were to be added up in")
    return work.get_future().then(lambda done: done.value()[0])
