"""What DeepSpeed asks about ranks of the program around it, Megatron's ``mpu``, answered by our mesh."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from portable.collective.protocol import Group
from portable.device.protocol import Dtype
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placement

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DATA, MODEL = "data", "tp"


class RankTable:
    """The ranks whose gradients add up, and those that together hold one copy of the model.

    The names of its methods are DeepSpeed's. To make one, all ranks of the world must call.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.data, self.model = mesh.group(DATA), mesh.group(MODEL)
        self._data_handle = self.data.process_group or _alone(mesh.world)
        self._data_ranks = list(self.data.ranks) if self.data.size > 1 else [mesh.world.rank]

    def get_data_parallel_group(self) -> ProcessGroup:
        """Return the ranks that the engine divides its state over."""
        return self._data_handle

    def get_data_parallel_group_ranks(self) -> list[int]:
        """Return their places in the world."""
        return self._data_ranks

    def get_data_parallel_world_size(self) -> int:
        """Return their number."""
        return self.data.size

    def get_data_parallel_rank(self) -> int:
        """Return this rank's place among them."""
        return self.data.rank

    def get_model_parallel_group(self) -> ProcessGroup | None:
        """Return the ranks that hold one copy; None, as everywhere in DeepSpeed, if this one has it whole."""
        return self.model.process_group

    def get_model_parallel_world_size(self) -> int:
        """Return their number."""
        return self.model.size

    def get_model_parallel_rank(self) -> int:
        """Return this rank's place among them."""
        return self.model.rank


def mark_parts(
    parameters: Mapping[str, nn.Parameter], placements: Mapping[str, Placement], mesh: Mesh
) -> None:
    """Tell the engine on which ranks of a copy to count a parameter in the norm; all ranks must call.

    It counts all on the first rank, and elsewhere those that carry its mark. Of the ranks that hold the same
    box (all, if it is not cut; a row of the grid in two dimensions) one must.
    """
    group = mesh.group(MODEL)
    own = {name: placements[name].extent(mesh) for name in parameters}
    held = group.all_gather_object(own) if group.size > 1 else [own]
    for name, parameter in parameters.items():
        boxes = [extents[name] for extents in held]
        parameter.model_parallel = boxes.index(own[name]) == group.rank  # pyright: ignore[reportAttributeAccessIssue]  # DeepSpeed reads it there


def sum_parts(
    parameters: Mapping[str, nn.Parameter], placements: Mapping[str, Placement], mesh: Mesh, dtype: Dtype
) -> None:
    """Let gradients that the ranks of a copy hold parts of add up in the backward pass, in ``dtype``.

    The engine sends a gradient off as soon as it is there, so that after the pass it would be too late.
    """
    for name, parameter in parameters.items():
        for axis in placements[name].partial:
            if parameter.requires_grad and mesh.size(axis) > 1:
                parameter.register_hook(partial(_sum, group=mesh.group(axis), dtype=dtype))


def _sum(gradient: Tensor, *, group: Group, dtype: Dtype) -> Tensor:
    return group.all_reduce(gradient.to(dtype.torch())).to(gradient.dtype)


def _alone(world: Group) -> ProcessGroup:
    """Return a group of this rank only; DeepSpeed takes None for the whole world there."""
    import torch.distributed as dist

    group = dist.new_group([world.rank], backend=dist.get_backend(), use_local_synchronization=True)
    return cast("ProcessGroup", group)  # a member gets no number
