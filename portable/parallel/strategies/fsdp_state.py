"""What torch's FSDP2 tells and does in private only, in one place."""

from __future__ import annotations

from collections.abc import Iterator

from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# There is no public name for the state; torch's own pipeline stages reach for it in the same way.
from torch.distributed.fsdp._fully_shard._fsdp_common import DDPMeshInfo, FSDPMeshInfo


def groups_of(module: FSDPModule) -> Iterator[tuple[str, ProcessGroup]]:
    """Yield the groups that a module's own parameters travel in, as "shard", and "replica" if there is."""
    for group in module._get_fsdp_state()._fsdp_param_groups:
        spans = group.mesh_info
        if isinstance(spans, FSDPMeshInfo):
            yield "shard", spans.shard_process_group
        if isinstance(spans, DDPMeshInfo):
            yield "replica", spans.replicate_process_group


def finish_backward(root: FSDPModule) -> None:
    """Let gradients travel that passed FSDP's hooks by; all ranks must call."""
    root.set_is_last_backward(True)
    root.set_reshard_after_backward(True)
    root.set_requires_gradient_sync(True)
    root.set_requires_all_reduce(True)
    state = root._get_fsdp_state()
    for below in state._state_ctx.all_states:
        for group in below._fsdp_param_groups:
            group.post_backward()
    state._root_post_backward_final_callback()
